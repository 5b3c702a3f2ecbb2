-- A small copy of the raw tables in another dataset, for planted faults.
--
-- It always contains the customer of the newest order, because the snapshots of
-- 02_build_features.sql count back from that order and must be the same in the copy.
{%- macro healthy(table) -%}
{{ source }}.{{ table.split(".") | last }}
{%- endmacro %}

-- grain: one row per sign-up
create or replace table `{{ tables.raw_users }}`
as
select *
from `{{ healthy(tables.raw_users) }}`
where
    customer_id in unnest(@customers)
    or customer_id in (
        select orders.customer_id
        from `{{ healthy(tables.raw_orders) }}` as orders
        order by orders.ordered_at desc, orders.order_id
        limit 1
    );

-- grain: one row per order
create or replace table `{{ tables.raw_orders }}`
as
select orders.*
from `{{ healthy(tables.raw_orders) }}` as orders
inner join `{{ tables.raw_users }}` as users
    on orders.customer_id = users.customer_id;

-- grain: one row per item of an order
create or replace table `{{ tables.raw_order_items }}`
as
select order_items.*
from `{{ healthy(tables.raw_order_items) }}` as order_items
inner join `{{ tables.raw_users }}` as users
    on order_items.customer_id = users.customer_id;

-- grain: one row per product
create or replace table `{{ tables.raw_products }}`
as
select *
from `{{ healthy(tables.raw_products) }}`;
