-- Each label with its customer's features as they are some days after it: the point-in-time join of
-- 04_build_train.sql, but of a time that nobody knows yet when the prediction is made. With 0 days
-- it gives the rows of train_dataset, with many days those of train_dataset_naive.
--
-- grain: one row per label row at one of the times, of one in so many customers (as in
-- lookups/label_rows.sql), and number of days.
with features as (
    select * from `{{ tables.features }}`
),

labels as (
    select *
    from `{{ tables.labels }}`
    where
        label_timestamp in unnest(@times)
        and (
            @one_in = 1
            or mod(farm_fingerprint(concat('sample ', customer_id)), @one_in) = 0
        )
),

snapshots as (
    select distinct feature_timestamp from features
),

label_times as (
    select distinct label_timestamp from labels
),

-- A customer has a row in every snapshot after the first order, so the newest snapshot is the
-- same one for all.
picks as (
    select
        label_times.label_timestamp,
        days,
        max(snapshots.feature_timestamp) as feature_timestamp,
    from label_times
    cross join unnest(@days) as days
    inner join snapshots
        on snapshots.feature_timestamp
        <= timestamp_add(label_times.label_timestamp, interval days day)
    group by label_times.label_timestamp, days
)

select
    picks.days,
    labels.customer_id,

{% for feature in features %}
    features.{{ feature.name }},
{%- endfor %}

    labels.label_timestamp,
    features.feature_timestamp,
from labels
inner join picks
    on labels.label_timestamp = picks.label_timestamp
left join features
    on labels.customer_id = features.customer_id
    and picks.feature_timestamp = features.feature_timestamp;
