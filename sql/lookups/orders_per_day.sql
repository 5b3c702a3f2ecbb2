-- How many orders were placed on each day.
--
-- grain: one row per day (UTC) with an order.
select
    date(ordered_at) as order_date,
    count(*) as orders,
from `{{ tables.raw_orders }}`
group by order_date
order by order_date;
