-- features_customer: what was known about each customer at each snapshot.
--
-- grain: one row per snapshot T (feature_timestamp) and customer with an order known at T.
-- Every window is (T - W, T]: nothing after T is read, an order counts only if `known_at <= T`
-- (it may arrive later than it was placed), and a return only if `returned_at <= T`. A customer
-- who stops ordering still gets a row at each snapshot, with zeros, and NULL where a ratio has no
-- denominator; otherwise the online store would go on serving the last week with an order.
-- Built are the snapshots from snapshots_from to snapshots_until: all of them in a run, those
-- that newer orders made due in a refresh (lib/refresh.py).
-- What it costs in BigQuery, on paper: the snapshots are few, so they are broadcast to orders and
-- items. Shuffled are the orders and the items (once for each window over them), the sums of the
-- windows, and the result for its last join. Each item is in about 13 snapshots' windows; these are
-- added up before the shuffle, as nothing in them is counted as distinct.
create or replace table `{{ tables.features }}`
partition by timestamp_trunc(feature_timestamp, day)
cluster by customer_id
as
with orders as (
    select * from `{{ tables.raw_orders }}`
),

products as (
    select * from `{{ tables.raw_products }}`
),

users as (
    select * from `{{ tables.raw_users }}`
),

-- Snapshot dates count back from the newest order, never from today; in a refresh from
-- snapshots_until, so that they go on at the same steps. They begin one step before the first
-- label date, which needs a snapshot at or before it, and end one horizon after the last label
-- date: the newest snapshot is the one served online.
last_day as (
    select least(date(max(ordered_at)), date(@snapshots_until)) as last_date from orders
),

spine as (
    select
        timestamp(snapshot_date) as feature_timestamp,
        timestamp_sub(timestamp(snapshot_date), interval 30 day) as after_30d,
        timestamp_sub(timestamp(snapshot_date), interval 90 day) as after_90d,
    from last_day
    cross join unnest(generate_date_array(
        date_sub(last_date, interval (@history_days + @horizon_days + @step_days) day),
        last_date
    )) as snapshot_date
    where
        mod(date_diff(last_date, snapshot_date, day), @step_days) = 0
        and snapshot_date >= date(@snapshots_from)
),

-- Only items that a window holds. The first two bounds are for BigQuery: it reads only the months
-- that the snapshots need.
order_items as (
    select *
    from `{{ tables.raw_order_items }}`
    where
        ordered_at > timestamp_sub(@snapshots_from, interval 90 day)
        and ordered_at <= @snapshots_until
        and ordered_at > (select min(after_90d) from spine)
),

-- What is known of a customer changes when an order arrives, and stays until the next one
-- arrives, so each (customer, T) joins exactly one row. Users join here, once per order: after the
-- snapshots they would be joined 30 times as often.
order_history as (
    select
        orders.customer_id,
        orders.known_at,
        users.signed_up_at,
        row_number() over (customer_orders) as orders_lifetime,
        max(orders.ordered_at) over (
            customer_orders rows between unbounded preceding and current row
        ) as last_ordered_at,
        coalesce(
            lead(orders.known_at) over (customer_orders),
            timestamp '9999-12-31'
        ) as next_known_at,
    from orders
    left join users
        on orders.customer_id = users.customer_id
    window customer_orders as (
        partition by orders.customer_id order by orders.known_at, orders.order_id
    )
),

customers_at_snapshot as (
    select
        order_history.customer_id,
        spine.feature_timestamp,
        order_history.orders_lifetime,
        order_history.last_ordered_at,
        order_history.signed_up_at,
    from order_history
    inner join spine
        on spine.feature_timestamp >= order_history.known_at
        and spine.feature_timestamp < order_history.next_known_at
),

orders_in_window as (
    select
        orders.customer_id,
        spine.feature_timestamp,
        cast(countif(orders.ordered_at > spine.after_30d) as int64) as orders_30d,
        count(*) as orders_90d,
    from orders
    inner join spine
        on orders.ordered_at > timestamp_sub(spine.feature_timestamp, interval 90 day)
        and orders.ordered_at <= spine.feature_timestamp
        and orders.known_at <= spine.feature_timestamp
    group by orders.customer_id, spine.feature_timestamp
),

-- When the customer ordered the same product, or of the same category, among the items known before
-- this one. A window then counts its different products as the items whose product is not in it
-- already, and needs no set of products for each customer and snapshot, as count(distinct) does.
item_history as (
    select
        order_items.*,
        products.category,
        max(order_items.ordered_at) over (
            partition by order_items.customer_id, order_items.product_id
            order by order_items.known_at, order_items.order_item_id
            rows between unbounded preceding and 1 preceding
        ) as same_product_at,
        max(order_items.ordered_at) over (
            partition by order_items.customer_id, products.category
            order by order_items.known_at, order_items.order_item_id
            rows between unbounded preceding and 1 preceding
        ) as same_category_at,
    from order_items
    left join products
        on order_items.product_id = products.product_id
),

items_in_window as (
    select
        items.customer_id,
        spine.feature_timestamp,
        round(sum(if(items.ordered_at > spine.after_30d, items.sale_price, 0)), 2) as revenue_30d,
        round(sum(items.sale_price), 2) as revenue_90d,
        cast(countif(
            items.product_id is not null
            and coalesce(items.same_product_at <= spine.after_90d, true)
        ) as int64) as distinct_products_90d,
        cast(countif(
            items.category is not null
            and coalesce(items.same_category_at <= spine.after_90d, true)
        ) as int64) as distinct_categories_90d,
        cast(countif(items.returned_at <= spine.feature_timestamp) as int64) as returned_items_90d,
        count(*) as items_90d,
    from item_history as items
    inner join spine
        on items.ordered_at > spine.after_90d
        and items.ordered_at <= spine.feature_timestamp
        and items.known_at <= spine.feature_timestamp
    group by items.customer_id, spine.feature_timestamp
)

select
    base.customer_id,

    coalesce(orders_in_window.orders_30d, 0) as orders_30d,
    coalesce(orders_in_window.orders_90d, 0) as orders_90d,
    coalesce(items_in_window.revenue_30d, 0) as revenue_30d,
    coalesce(items_in_window.revenue_90d, 0) as revenue_90d,
    -- Not rounded: BigQuery and the local one round half a cent in different directions.
    safe_divide(items_in_window.revenue_90d, orders_in_window.orders_90d) as avg_order_value_90d,
    cast(floor(
        (unix_seconds(base.feature_timestamp) - unix_seconds(base.last_ordered_at)) / 86400
    ) as int64) as days_since_last_order,
    coalesce(items_in_window.distinct_products_90d, 0) as distinct_products_90d,
    coalesce(items_in_window.distinct_categories_90d, 0) as distinct_categories_90d,
    safe_divide(
        items_in_window.returned_items_90d, items_in_window.items_90d
    ) as return_rate_90d,
    cast(floor(
        (unix_seconds(base.feature_timestamp) - unix_seconds(base.signed_up_at)) / 86400
    ) as int64) as tenure_days,
    base.orders_lifetime,

    base.feature_timestamp,
from customers_at_snapshot as base
left join (
    orders_in_window
    left join items_in_window
        on orders_in_window.customer_id = items_in_window.customer_id
        and orders_in_window.feature_timestamp = items_in_window.feature_timestamp
)
    on base.customer_id = orders_in_window.customer_id
    and base.feature_timestamp = orders_in_window.feature_timestamp;
