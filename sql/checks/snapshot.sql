-- Do the four raw tables belong together, as one reading of the source? One row per check:
-- (check, value, low, high, status), status as in ../05_sanity_checks.sql.
--
-- sql/01 reads the source in one statement per table. If the source was replaced between two of
-- them (the public dataset is, every day), orders are there without their user or before the
-- sign-up, and items without their order or at another time than it.
with users as (
    select * from `{{ tables.raw_users }}`
),

orders as (
    select * from `{{ tables.raw_orders }}`
),

order_items as (
    select * from `{{ tables.raw_order_items }}`
),

products as (
    select * from `{{ tables.raw_products }}`
),

users_summary as (
    select count(*) as row_count, count(distinct customer_id) as key_count from users
),

orders_summary as (
    select count(*) as row_count, count(distinct order_id) as key_count from orders
),

items_summary as (
    select
        count(*) as row_count,
        count(distinct order_item_id) as key_count,
        count(sale_price) as with_price,
    from order_items
),

products_summary as (
    select
        count(*) as row_count,
        count(distinct product_id) as key_count,
        count(category) as with_category,
    from products
),

orders_without_user as (
    select count(*) as row_count
    from orders
    left join users
        on orders.customer_id = users.customer_id
    where users.customer_id is null or orders.ordered_at < users.signed_up_at
),

items_without_order as (
    select count(*) as row_count
    from order_items
    left join orders
        on order_items.order_id = orders.order_id
        and order_items.customer_id = orders.customer_id
        and order_items.ordered_at = orders.ordered_at
    where orders.order_id is null
),

measured as (
    select 'orders_without_their_user' as check_name, row_count as check_value, 0 as low, 0 as high
    from orders_without_user
    union all
    select 'items_without_their_order', row_count, 0, 0 from items_without_order
    union all
    select 'users_doubled', row_count - key_count, 0, 0 from users_summary
    union all
    select 'orders_doubled', row_count - key_count, 0, 0 from orders_summary
    union all
    select 'order_items_doubled', row_count - key_count, 0, 0 from items_summary
    union all
    select 'products_doubled', row_count - key_count, 0, 0 from products_summary
    union all
    select 'users', row_count, 1, 1000000000000 from users_summary
    union all
    select 'orders', row_count, 1, 1000000000000 from orders_summary
    union all
    select 'order_items_with_price', with_price, 1, 1000000000000 from items_summary
    union all
    select 'products_with_category', with_category, 1, 1000000000000 from products_summary
)

select
    check_name as `check`,
    cast(check_value as float64) as value,
    cast(low as float64) as low,
    cast(high as float64) as high,
    if(check_value between low and high, 'pass', 'fail') as status,
from measured
order by check_name;
