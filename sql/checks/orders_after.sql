-- The orders after a day, newest first: the first five, and the number of all.
--
-- grain: one row per order.
with orders as (
    select * from `{{ source }}.orders`
)

select
    order_id,
    user_id,
    cast(created_at as string) as ordered_at,
    count(*) over () as order_count,
from orders
where created_at >= timestamp_add(@day, interval 1 day)
order by created_at desc, order_id
limit 5;
