-- The rest of the last day: each of these customers repeats the last order.
--
-- Times are spread evenly from the newest order to midnight. One more order, 24 hours after the
-- newest, starts the next day, so that 02_build_features.sql makes a snapshot of this day.

-- grain: one row per new order
insert into `{{ tables.raw_orders }}` (customer_id, order_id, ordered_at, known_at)
with newest as (
    select
        max(ordered_at) as ordered_at,
        max(order_id) as order_id,
        timestamp_diff(
            timestamp(date_add(date(max(ordered_at)), interval 1 day)),
            max(ordered_at),
            second
        ) as seconds_left,
    from `{{ tables.raw_orders }}`
),

buyers as (
    select
        customer_id,
        row_number() over (order by customer_id) as place,
        count(*) over () as count_buyers,
    from `{{ tables.raw_users }}`
    where customer_id in unnest(@customers)
),

new_orders as (
    select
        buyers.customer_id,
        newest.order_id + buyers.place as order_id,
        timestamp_add(newest.ordered_at, interval cast(floor(
            newest.seconds_left * buyers.place / (buyers.count_buyers + 1)
        ) as int64) second) as ordered_at,
    from buyers
    cross join newest
    union all
    select
        buyers.customer_id,
        newest.order_id + buyers.count_buyers + 1 as order_id,
        timestamp_add(newest.ordered_at, interval 24 hour) as ordered_at,
    from buyers
    cross join newest
    where buyers.place = 1
)

select
    customer_id,
    order_id,
    ordered_at,
    ordered_at as known_at,
from new_orders;

-- grain: one row per item of a new order
insert into `{{ tables.raw_order_items }}` (
    customer_id,
    order_id,
    order_item_id,
    product_id,
    sale_price,
    ordered_at,
    known_at,
    returned_at
)
with newest as (
    select
        max(ordered_at) as ordered_at,
        max(order_item_id) as order_item_id,
    from `{{ tables.raw_order_items }}`
),

new_orders as (
    select orders.*
    from `{{ tables.raw_orders }}` as orders
    cross join newest
    where orders.ordered_at > newest.ordered_at
),

last_items as (
    select *
    from `{{ tables.raw_order_items }}`
    qualify rank() over (
        partition by customer_id order by ordered_at desc, order_id
    ) = 1
)

select
    new_orders.customer_id,
    new_orders.order_id,
    newest.order_item_id + row_number() over (
        order by new_orders.order_id, last_items.order_item_id
    ) as order_item_id,
    last_items.product_id,
    last_items.sale_price,
    new_orders.ordered_at,
    new_orders.known_at,
    cast(null as timestamp) as returned_at,
from new_orders
inner join last_items
    on new_orders.customer_id = last_items.customer_id
cross join newest;
