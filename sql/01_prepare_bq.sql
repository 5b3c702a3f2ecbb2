-- One snapshot of theLook: the columns that the demo needs, in a dataset of our own.
--
-- Why a copy: the public dataset is generated anew every day, with new ids. Features built
-- today and labels built tomorrow would not match.
-- Why `customer_id` is a STRING: the feature store's entity id is one.
-- Why `status` is not copied: its final value is only known later, so no feature may use it.
-- `known_at` is when an order had arrived in this table: features use only what was known by
-- their time. theLook has no such column. If your orders arrive late, put yours here, in both tables.
-- Left out, and counted by checks/source.sql: orders of unknown users or before the sign-up,
-- items of such orders or of none, items with a negative price. theLook has none.

-- grain: one row per sign-up
create or replace table `{{ tables.raw_users }}`
cluster by customer_id
as
select
    cast(id as string) as customer_id,
    created_at as signed_up_at,
from `{{ source }}.users`
where
    id is not null
    and (
        @sample_percent = 100
        or abs(mod(farm_fingerprint(cast(id as string)), 100)) < @sample_percent
    );

-- grain: one row per order
create or replace table `{{ tables.raw_orders }}`
partition by timestamp_trunc(ordered_at, month)
cluster by customer_id
as
select
    cast(orders.user_id as string) as customer_id,
    orders.order_id,
    orders.created_at as ordered_at,
    orders.created_at as known_at,
from `{{ source }}.orders` as orders
inner join `{{ source }}.users` as users
    on orders.user_id = users.id
    and orders.created_at >= users.created_at
where
    @sample_percent = 100
    or abs(mod(farm_fingerprint(cast(orders.user_id as string)), 100)) < @sample_percent;

-- grain: one row per item of an order. An item gets the time of its order: in the source,
-- order_items.created_at differs from it by hours to days in either direction.
create or replace table `{{ tables.raw_order_items }}`
partition by timestamp_trunc(ordered_at, month)
cluster by customer_id
as
select
    cast(orders.user_id as string) as customer_id,
    order_items.order_id,
    order_items.id as order_item_id,
    order_items.product_id,
    order_items.sale_price,
    orders.created_at as ordered_at,
    orders.created_at as known_at,
    order_items.returned_at,
from `{{ source }}.order_items` as order_items
inner join `{{ source }}.orders` as orders
    on order_items.order_id = orders.order_id
inner join `{{ source }}.users` as users
    on orders.user_id = users.id
    and orders.created_at >= users.created_at
where
    (
        @sample_percent = 100
        or abs(mod(farm_fingerprint(cast(orders.user_id as string)), 100)) < @sample_percent
    )
    and coalesce(order_items.sale_price, 0) >= 0;

-- grain: one row per product
create or replace table `{{ tables.raw_products }}`
as
select
    id as product_id,
    category,
from `{{ source }}.products`;

-- grain: one row per source table: its number of rows when the snapshot was taken
create or replace table `{{ tables.source_counts }}`
as
select 'users' as table_name, count(*) as source_rows from `{{ source }}.users`
union all
select 'orders' as table_name, count(*) as source_rows from `{{ source }}.orders`
union all
select 'order_items' as table_name, count(*) as source_rows from `{{ source }}.order_items`
union all
select 'products' as table_name, count(*) as source_rows from `{{ source }}.products`;
