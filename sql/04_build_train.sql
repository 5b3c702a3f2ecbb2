-- train_dataset: each label with the features known at its time.
--
-- grain: one row per row of labels_customer_churn.
-- The point-in-time join: of a customer's snapshots, the newest with
-- feature_timestamp <= label_timestamp. Written as a union of snapshots and labels, a running
-- maximum, and an equality join, so that its cost grows as n log n; a range join would first
-- pair each label with every earlier snapshot.
create or replace table `{{ tables.train }}`
partition by timestamp_trunc(label_timestamp, day)
cluster by customer_id
as
with features as (
    select * from `{{ tables.features }}`
),

labels as (
    select * from `{{ tables.labels }}`
),

events as (
    select
        customer_id,
        feature_timestamp as event_at,
        feature_timestamp,
        0 as is_label,
    from features
    union all
    select
        customer_id,
        label_timestamp as event_at,
        cast(null as timestamp) as feature_timestamp,
        1 as is_label,
    from labels
),

-- At equal times the snapshot sorts before the label: `<=` is inclusive.
newest_snapshot as (
    select
        customer_id,
        event_at as label_timestamp,
        is_label,
        max(feature_timestamp) over (
            partition by customer_id
            order by event_at, is_label
            rows between unbounded preceding and current row
        ) as feature_timestamp,
    from events
),

picks as (
    select customer_id, label_timestamp, feature_timestamp
    from newest_snapshot
    where is_label = 1
)

select
    labels.customer_id,

    labels.{{ label_column }},
{% for feature in features %}
    features.{{ feature.name }},
{%- endfor %}

    labels.label_timestamp,
    picks.feature_timestamp,
from labels
inner join picks
    on labels.customer_id = picks.customer_id
    and labels.label_timestamp = picks.label_timestamp
left join features
    on picks.customer_id = features.customer_id
    and picks.feature_timestamp = features.feature_timestamp;
