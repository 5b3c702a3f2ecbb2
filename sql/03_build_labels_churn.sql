-- labels_customer_churn: who placed no order after each label_timestamp.
--
-- grain: one row per label_timestamp and customer with an order in the activity window before
-- it. The label is 1 if the customer places no order in
-- (label_timestamp, label_timestamp + horizon].
-- The last label date is one horizon before the newest order: a later label would call a
-- customer churned whose next order is not in the data yet.
create or replace table `{{ tables.labels }}`
partition by timestamp_trunc(label_timestamp, day)
cluster by customer_id
as
with orders as (
    select * from `{{ tables.raw_orders }}`
),

last_day as (
    select date(max(ordered_at)) as last_date from orders
),

spine as (
    select timestamp(label_date) as label_timestamp
    from last_day
    cross join unnest(generate_date_array(
        date_sub(last_date, interval (@horizon_days + @history_days) day),
        date_sub(last_date, interval @horizon_days day)
    )) as label_date
    where mod(date_diff(last_date, label_date, day) - @horizon_days, @step_days) = 0
),

order_history as (
    select
        customer_id,
        ordered_at,
        coalesce(
            lead(ordered_at) over (
                partition by customer_id order by ordered_at, order_id
            ),
            timestamp '9999-12-31'
        ) as next_ordered_at,
    from orders
),

active_customers as (
    select
        order_history.customer_id,
        order_history.next_ordered_at,
        spine.label_timestamp,
    from order_history
    inner join spine
        on spine.label_timestamp >= order_history.ordered_at
        and spine.label_timestamp < order_history.next_ordered_at
    where
        order_history.ordered_at > timestamp_sub(
            spine.label_timestamp, interval @active_days day
        )
)

select
    customer_id,
    if(
        next_ordered_at <= timestamp_add(label_timestamp, interval @horizon_days day), 0, 1
    ) as {{ label_column }},
    label_timestamp,
from active_customers;
