-- How many labels each label date has, and how many of them say churned.
--
-- grain: one row per label date.
select
    label_timestamp,
    count(*) as row_count,
    cast(countif({{ label_column }} = 1) as int64) as churned,
from `{{ tables.labels }}`
group by label_timestamp
order by label_timestamp;
