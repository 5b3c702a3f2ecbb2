-- train_dataset: each label with the features known at its time.
--
-- grain: one row per row of labels_customer_churn.
-- The point-in-time join: of a customer's snapshots, the newest with
-- feature_timestamp <= label_timestamp. Written as a union of snapshots and labels, in which each
-- label takes the last snapshot before it, and an equality join for the features.
-- What the forms cost in BigQuery, on paper, for L labels and S snapshots of each customer:
--   this one         sorts customer and time of the snapshots that a label may use; the features
--                    are shuffled once, for the join. Grows as n log n.
--   a range join     pairs each label with every earlier snapshot first: L * S / 2 rows. With all
--                    features in them, and QUALIFY, it shuffles and sorts all of these.
--   all in the union the features would be sorted with the time: one join less, but some ten times
--                    the bytes in the sort.
create or replace table `{{ tables.train }}`
partition by timestamp_trunc(label_timestamp, day)
cluster by customer_id
as
with features as (
    select * from `{{ tables.features }}`
),

-- Not taken from `features`: each is then read once, for the columns that it needs, and nothing
-- keeps the rows of a table between two uses.
snapshots as (
    select
        customer_id,
        feature_timestamp,
    from `{{ tables.features }}`
),

labels as (
    select * from `{{ tables.labels }}`
),

last_labels as (
    select
        customer_id,
        max(label_timestamp) as last_label_timestamp,
    from labels
    group by customer_id
),

-- Left out before the sort: customers without a label, and snapshots after the last label.
events as (
    select
        snapshots.customer_id,
        snapshots.feature_timestamp as event_at,
        snapshots.feature_timestamp as snapshot_at,
        cast(null as int64) as {{ label_column }},
    from snapshots
    inner join last_labels
        on snapshots.customer_id = last_labels.customer_id
        and snapshots.feature_timestamp <= last_labels.last_label_timestamp
    union all
    select
        customer_id,
        label_timestamp as event_at,
        cast(null as timestamp) as snapshot_at,
        {{ label_column }},
    from labels
),

-- Events of the same time belong to each other's frame: `<=` is inclusive.
newest_snapshot as (
    select
        customer_id,
        {{ label_column }},
        event_at as label_timestamp,
        last_value(snapshot_at ignore nulls) over (
            partition by customer_id
            order by event_at
            range between unbounded preceding and current row
        ) as feature_timestamp,
    from events
    qualify snapshot_at is null
)

select
    newest_snapshot.customer_id,

    newest_snapshot.{{ label_column }},
{% for feature in features %}
    features.{{ feature.name }},
{%- endfor %}

    newest_snapshot.label_timestamp,
    newest_snapshot.feature_timestamp,
from newest_snapshot
left join features
    on newest_snapshot.customer_id = features.customer_id
    and newest_snapshot.feature_timestamp = features.feature_timestamp;
