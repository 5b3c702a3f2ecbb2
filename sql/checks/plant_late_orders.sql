-- PLANTED: some orders arrive late. Only in a copy of the raw tables, for the ladder of leaks
-- (notebook 05): theLook has no time of arrival, so that its orders are known at once.
--
-- By hash of the order, late_percent of 100 arrive one day to late_days days after they were
-- placed; an item arrives with its order.

-- grain: one row per order
create or replace table `{{ tables.raw_orders }}`
as
with planted as (
    select
        @late_percent as late_percent,
        @late_days as late_days,
),

orders as (
    select
        *,
        farm_fingerprint(cast(order_id as string)) as fingerprint,
    from `{{ tables.raw_orders }}`
)

select
    orders.customer_id,
    orders.order_id,
    orders.ordered_at,
    if(
        abs(mod(orders.fingerprint, 100)) < planted.late_percent,
        timestamp_add(orders.ordered_at, interval (
            1 + abs(mod(div(orders.fingerprint, 100), planted.late_days))
        ) day),
        orders.ordered_at
    ) as known_at,
from orders
cross join planted;

-- grain: one row per item of an order
create or replace table `{{ tables.raw_order_items }}`
as
select
    items.customer_id,
    items.order_id,
    items.order_item_id,
    items.product_id,
    items.sale_price,
    items.ordered_at,
    orders.known_at,
    items.returned_at,
from `{{ tables.raw_order_items }}` as items
inner join `{{ tables.raw_orders }}` as orders
    on items.order_id = orders.order_id;
