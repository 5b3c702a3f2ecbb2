-- The features of ONE customer at ONE time, from the raw tables: the query of a service without
-- a feature store at each request. Used only to measure its time (notebook 07).
--
-- grain: one row: that customer at that time (the two parameters).
-- This file defines every feature of 02_build_features.sql a second time, and the two must be
-- kept equal by hand. Here a test compares them.
with orders as (
    select *
    from `{{ tables.raw_orders }}`
    where
        customer_id = @customer_id
        and ordered_at <= @feature_timestamp
        and known_at <= @feature_timestamp
),

order_items as (
    select
        items.*,
        products.category,
    from `{{ tables.raw_order_items }}` as items
    left join `{{ tables.raw_products }}` as products
        on items.product_id = products.product_id
    where
        items.customer_id = @customer_id
        and items.ordered_at <= @feature_timestamp
        and items.known_at <= @feature_timestamp
        and items.ordered_at > timestamp_sub(@feature_timestamp, interval 90 day)
),

users as (
    select * from `{{ tables.raw_users }}` where customer_id = @customer_id
),

orders_summary as (
    select
        countif(
            ordered_at > timestamp_sub(@feature_timestamp, interval 30 day)
        ) as orders_30d,
        countif(
            ordered_at > timestamp_sub(@feature_timestamp, interval 90 day)
        ) as orders_90d,
        count(*) as orders_lifetime,
        max(ordered_at) as last_ordered_at,
    from orders
),

items_summary as (
    select
        sum(if(
            ordered_at > timestamp_sub(@feature_timestamp, interval 30 day), sale_price, 0
        )) as revenue_30d,
        sum(sale_price) as revenue_90d,
        count(distinct product_id) as distinct_products_90d,
        count(distinct category) as distinct_categories_90d,
        countif(returned_at <= @feature_timestamp) as returned_items_90d,
        count(*) as items_90d,
    from order_items
)

select
    users.customer_id,

    orders_summary.orders_30d,
    orders_summary.orders_90d,
    round(coalesce(items_summary.revenue_30d, 0), 2) as revenue_30d,
    round(coalesce(items_summary.revenue_90d, 0), 2) as revenue_90d,
    safe_divide(
        round(items_summary.revenue_90d, 2), nullif(orders_summary.orders_90d, 0)
    ) as avg_order_value_90d,
    cast(floor(
        (unix_seconds(@feature_timestamp) - unix_seconds(orders_summary.last_ordered_at))
        / 86400
    ) as int64) as days_since_last_order,
    items_summary.distinct_products_90d,
    items_summary.distinct_categories_90d,
    safe_divide(
        items_summary.returned_items_90d, nullif(items_summary.items_90d, 0)
    ) as return_rate_90d,
    cast(floor(
        (unix_seconds(@feature_timestamp) - unix_seconds(users.signed_up_at)) / 86400
    ) as int64) as tenure_days,
    orders_summary.orders_lifetime,

    @feature_timestamp as feature_timestamp,
from orders_summary
cross join items_summary
cross join users;
