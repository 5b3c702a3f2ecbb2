-- What can be wrong with the source as a whole: keys, references, impossible and missing values,
-- the calendar, the number of customers.
--
-- grain: one row. `<problem>` counts rows, `<problem>_id` is the smallest id among them.
-- Dates and customers are those of the orders that sql/01 keeps: of a known user, not before the
-- sign-up. `customers` have an order in the active days before the newest label date.
-- A week is seven days, counted back from the day of the newest order, on which the snapshots
-- depend. Of the weeks that the newest label's horizon covers, one with less than
-- checks.min_week_of_orders of the orders of a median week (of the newest 52 that have any) is
-- thin: the newest order is then likely to be an error, and who did not order in such a week
-- seems to have churned.
-- Sums inside div() have parentheses of their own: the local BigQuery drops the function's.
with users as (
    select * from `{{ source }}.users`
),

orders as (
    select * from `{{ source }}.orders`
),

order_items as (
    select * from `{{ source }}.order_items`
),

products as (
    select * from `{{ source }}.products`
),

orders_with_items as (
    select distinct order_id from order_items
),

checked_orders as (
    select
        orders.order_id,
        orders.user_id,
        orders.created_at,
        date(orders.created_at) as order_date,
        users.id is null as is_of_unknown_user,
        coalesce(orders.created_at < users.created_at, false) as is_before_sign_up,
        orders_with_items.order_id is null as is_without_items,
        coalesce(orders.created_at >= users.created_at, false) as is_kept,
    from orders
    left join users
        on orders.user_id = users.id
    left join orders_with_items
        on orders.order_id = orders_with_items.order_id
    where orders.created_at is not null
),

kept_orders as (
    select * from checked_orders where is_kept
),

kept_summary as (
    select min(order_date) as first_date, max(order_date) as last_date from kept_orders
),

checked_items as (
    select
        order_items.id,
        orders.order_id is null as is_of_unknown_order,
        products.id is null as is_of_unknown_product,
        coalesce(order_items.sale_price < 0, false) as has_negative_price,
        order_items.sale_price is null as has_no_price,
        coalesce(order_items.returned_at < orders.created_at, false) as is_returned_too_early,
        order_items.returned_at is not null as is_returned,
    from order_items
    left join orders
        on order_items.order_id = orders.order_id
    left join products
        on order_items.product_id = products.id
),

orders_summary as (
    select
        count(*) as orders,
        count(*) - count(distinct order_id) as orders_doubled,
        countif(is_without_items) as orders_without_items,
        min(if(is_without_items, order_id, null)) as orders_without_items_id,
        countif(is_of_unknown_user) as orders_of_unknown_users,
        min(if(is_of_unknown_user, order_id, null)) as orders_of_unknown_users_id,
        countif(is_before_sign_up) as orders_before_sign_up,
        min(if(is_before_sign_up, order_id, null)) as orders_before_sign_up_id,
    from checked_orders
),

items_summary as (
    select
        count(*) as order_items,
        count(*) - count(distinct id) as order_items_doubled,
        countif(is_returned) as returned_items,
        countif(has_no_price) as items_without_price,
        min(if(has_no_price, id, null)) as items_without_price_id,
        countif(is_returned_too_early) as items_returned_too_early,
        min(if(is_returned_too_early, id, null)) as items_returned_too_early_id,
        countif(is_of_unknown_order) as items_of_unknown_orders,
        min(if(is_of_unknown_order, id, null)) as items_of_unknown_orders_id,
        countif(is_of_unknown_product) as items_of_unknown_products,
        min(if(is_of_unknown_product, id, null)) as items_of_unknown_products_id,
        countif(has_negative_price) as items_with_negative_price,
        min(if(has_negative_price, id, null)) as items_with_negative_price_id,
    from checked_items
),

users_summary as (
    select count(*) as users, count(*) - count(distinct id) as users_doubled from users
),

products_summary as (
    select
        count(*) as products,
        count(*) - count(distinct id) as products_doubled,
        countif(category is null) as products_without_category,
        min(if(category is null, id, null)) as products_without_category_id,
    from products
),

newest_label as (
    select
        last_date,
        timestamp(date_sub(last_date, interval @horizon_days day)) as label_timestamp,
    from kept_summary
),

customers_summary as (
    select count(distinct kept_orders.user_id) as customers
    from kept_orders
    cross join newest_label
    where
        kept_orders.created_at <= newest_label.label_timestamp
        and kept_orders.created_at > timestamp_sub(
            newest_label.label_timestamp, interval @active_days day
        )
),

dated as (
    select
        kept_orders.order_date,
        div(date_diff(kept_summary.last_date, kept_orders.order_date, day), 7) as week,
    from kept_orders
    cross join kept_summary
),

weeks as (
    select week, count(*) as order_count
    from dated
    group by week
),

newest_weeks as (
    select week, order_count
    from weeks
    qualify row_number() over (order by week) <= 52
),

ranked_weeks as (
    select
        order_count,
        row_number() over (order by order_count, week) as position,
        count(*) over () as week_count,
    from newest_weeks
),

median_week as (
    select
        order_count as median_orders,
        floor(@min_week_of_orders * order_count) as usual_orders,
    from ranked_weeks
    where position = div((week_count + 1), 2)
),

recent_weeks as (
    select recent_week as week, coalesce(weeks.order_count, 0) as order_count
    from unnest(generate_array(0, div((@horizon_days - 1), 7))) as recent_week
    left join weeks
        on recent_week = weeks.week
),

thin_weeks as (
    select
        count(*) as thin_weeks,
        max(recent_weeks.week) as oldest_week,
    from recent_weeks
    cross join median_week
    where recent_weeks.order_count < median_week.usual_orders
),

before_thin_weeks as (
    select max(dated.order_date) as last_usual_date
    from dated
    inner join weeks
        on dated.week = weeks.week
    cross join median_week
    cross join thin_weeks
    where
        weeks.week > thin_weeks.oldest_week
        and weeks.order_count >= median_week.usual_orders
)

select
    users_summary.users,
    users_summary.users_doubled,
    orders_summary.orders,
    orders_summary.orders_doubled,
    orders_summary.orders_of_unknown_users,
    orders_summary.orders_of_unknown_users_id,
    orders_summary.orders_before_sign_up,
    orders_summary.orders_before_sign_up_id,
    orders_summary.orders_without_items,
    orders_summary.orders_without_items_id,
    items_summary.order_items,
    items_summary.order_items_doubled,
    items_summary.items_of_unknown_orders,
    items_summary.items_of_unknown_orders_id,
    items_summary.items_of_unknown_products,
    items_summary.items_of_unknown_products_id,
    items_summary.items_with_negative_price,
    items_summary.items_with_negative_price_id,
    items_summary.items_without_price,
    items_summary.items_without_price_id,
    items_summary.items_returned_too_early,
    items_summary.items_returned_too_early_id,
    items_summary.returned_items,
    products_summary.products,
    products_summary.products_doubled,
    products_summary.products_without_category,
    products_summary.products_without_category_id,
    customers_summary.customers,
    cast(date(newest_label.label_timestamp) as string) as label_date,
    date_diff(kept_summary.last_date, kept_summary.first_date, day) as days_of_orders,
    cast(kept_summary.last_date as string) as last_date,
    median_week.median_orders,
    thin_weeks.thin_weeks,
    cast(before_thin_weeks.last_usual_date as string) as last_usual_date,
from orders_summary
cross join users_summary
cross join items_summary
cross join products_summary
cross join kept_summary
cross join newest_label
cross join customers_summary
left join median_week
    on true
cross join thin_weeks
cross join before_thin_weeks;
