-- What the checks of 05_sanity_checks.sql depend on, for each label date, newest first.
--
-- grain: one row per label_timestamp. With a shorter snapshots.history_days, train_dataset has
-- the same rows for the newest dates, and none for the others.
with train as (
    select * from `{{ tables.train }}`
)

select
    unix_seconds(label_timestamp) as label_seconds,
    count(*) as row_count,
    sum({{ label_column }}) as positives,
    sum(if(feature_timestamp is null, 0, 1)) as covered,
{%- for feature in features if feature.nullable %}
    sum(if({{ feature.name }} is null, 1, 0)) as null_{{ feature.name }},
{%- endfor %}
from train
group by label_timestamp
order by label_timestamp desc;
