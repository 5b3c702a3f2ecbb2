-- Checks of features, labels and training set, one row each: (check, value, low, high, status).
--
-- status: pass if low <= value <= high; else warn for a positive rate (the data may be like
-- that), fail for all other checks. A positive rate of exactly 0 or 1 is a fail: with one class
-- no model can be trained. So is a null rate of 1, whatever is allowed: the feature is empty.
with orders as (
    select * from `{{ tables.raw_orders }}`
),

features as (
    select * from `{{ tables.features }}`
),

labels as (
    select * from `{{ tables.labels }}`
),

train as (
    select * from `{{ tables.train }}`
),

positive_rate_at_snapshot as (
    select
        label_timestamp,
        avg({{ label_column }}) as positive_rate,
        count(*) as row_count,
    from labels
    group by label_timestamp
),

feature_keys as (
    select distinct
        customer_id,
        feature_timestamp,
    from features
    where customer_id is not null and feature_timestamp is not null
),

label_keys as (
    select distinct
        customer_id,
        label_timestamp,
    from labels
    where customer_id is not null and label_timestamp is not null
),

features_summary as (
    select
        count(*) as row_count,
        date(max(feature_timestamp)) as last_date,
        div(
            date_diff(date(max(feature_timestamp)), date(min(feature_timestamp)), day), @step_days
        ) + 1 - count(distinct feature_timestamp) as missing_snapshots,
{%- for feature in features if not feature.nullable %}
        avg(if({{ feature.name }} is null, 1, 0)) as null_{{ feature.name }},
{%- endfor %}
    from features
),

labels_summary as (
    select
        count(*) as row_count,
        date(min(label_timestamp)) as first_date,
        date(max(label_timestamp)) as last_date,
        avg({{ label_column }}) as positive_rate,
    from labels
),

train_summary as (
    select
        count(*) as row_count,
        avg(if(feature_timestamp is null, 0, 1)) as coverage,
        sum(if(feature_timestamp > label_timestamp, 1, 0)) as from_the_future,
        max(unix_seconds(label_timestamp) - unix_seconds(feature_timestamp))
            / 86400 as oldest_days,
{%- for feature in features if feature.nullable %}
        avg(if({{ feature.name }} is null, 1, 0)) as null_{{ feature.name }},
{%- endfor %}
    from train
),

labels_without_train as (
    select count(*) as row_count
    from labels
    left join train
        on labels.customer_id = train.customer_id
        and labels.label_timestamp = train.label_timestamp
    where train.customer_id is null
),

orders_summary as (
    select date(max(ordered_at)) as last_date from orders
),

measured as (
    select
        'positive_rate' as check_name,
        positive_rate as check_value,
        @positive_rate_low as low,
        @positive_rate_high as high,
    from labels_summary
    union all
    select
        concat('positive_rate_at_', cast(date(label_timestamp) as string)),
        positive_rate, @positive_rate_low, @positive_rate_high
    from positive_rate_at_snapshot
    union all
    select 'customers_per_label_date', min(row_count), @min_customers, 1e12
    from positive_rate_at_snapshot
    union all
    select 'feature_rows', row_count, 1, 1e12 from features_summary
    union all
    select 'snapshots_missing', missing_snapshots, 0, 0 from features_summary
    union all
    select 'label_rows', row_count, 1, 1e12 from labels_summary
    union all
    select
        'feature_keys_doubled', row_count - (select count(*) from feature_keys), 0, 0
    from features_summary
    union all
    select
        'label_keys_doubled', row_count - (select count(*) from label_keys), 0, 0
    from labels_summary
    union all
    select 'label_rows_lost_by_join', row_count, 0, 0 from labels_without_train
    union all
    select 'label_rows_added_by_join', train_summary.row_count - labels_summary.row_count, 0, 0
    from train_summary
    cross join labels_summary
    union all
    select 'features_from_the_future', from_the_future, 0, 0 from train_summary
    union all
    select 'oldest_feature_days', oldest_days, 0, @step_days from train_summary
    union all
    select 'join_coverage', coverage, @min_join_coverage, 1 from train_summary
    union all
    select
        'days_from_last_label_to_last_order',
        date_diff(orders_summary.last_date, labels_summary.last_date, day),
        @horizon_days,
        @horizon_days + @step_days
    from orders_summary
    cross join labels_summary
    union all
    select
        'days_of_label_history',
        date_diff(last_date, first_date, day),
        @history_days - @step_days,
        @history_days
    from labels_summary
    union all
    select
        'days_from_last_snapshot_to_last_order',
        date_diff(orders_summary.last_date, features_summary.last_date, day),
        0,
        @step_days - 1
    from orders_summary
    cross join features_summary
{%- for feature in features %}
    union all
    {% if feature.nullable -%}
    select 'null_rate_{{ feature.name }}', null_{{ feature.name }}, 0, @max_null_rate
    from train_summary
    {%- else -%}
    select 'null_rate_{{ feature.name }}', null_{{ feature.name }}, 0, 0
    from features_summary
    {%- endif %}
{%- endfor %}
)

select
    check_name as `check`,
    cast(check_value as float64) as value,
    cast(low as float64) as low,
    cast(high as float64) as high,
    case
        when starts_with(check_name, 'positive_rate') then case
            when check_value is null or check_value = 0 or check_value = 1 then 'fail'
            when check_value < low or check_value > high then 'warn'
            else 'pass'
        end
        when starts_with(check_name, 'null_rate') and check_value = 1 then 'fail'
        when check_value between low and high then 'pass'
        else 'fail'
    end as status,
from measured
order by check_name;
