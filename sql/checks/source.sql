-- What can be wrong with the source as a whole: references, impossible values, the calendar.
--
-- grain: one row. `<problem>` counts rows, `<problem>_id` is the smallest id among them.
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

checked_orders as (
    select
        orders.order_id,
        date(orders.created_at) as order_date,
        users.id is null as is_of_unknown_user,
        coalesce(orders.created_at < users.created_at, false) as is_before_sign_up,
    from orders
    left join users
        on orders.user_id = users.id
    where orders.created_at is not null
),

checked_items as (
    select
        order_items.id,
        orders.order_id is null as is_of_unknown_order,
        products.id is null as is_of_unknown_product,
        coalesce(order_items.sale_price < 0, false) as has_negative_price,
    from order_items
    left join orders
        on order_items.order_id = orders.order_id
    left join products
        on order_items.product_id = products.id
),

orders_summary as (
    select
        count(*) as orders,
        min(order_date) as first_date,
        max(order_date) as last_date,
        countif(is_of_unknown_user) as orders_of_unknown_users,
        min(if(is_of_unknown_user, order_id, null)) as orders_of_unknown_users_id,
        countif(is_before_sign_up) as orders_before_sign_up,
        min(if(is_before_sign_up, order_id, null)) as orders_before_sign_up_id,
    from checked_orders
),

items_summary as (
    select
        count(*) as order_items,
        countif(is_of_unknown_order) as items_of_unknown_orders,
        min(if(is_of_unknown_order, id, null)) as items_of_unknown_orders_id,
        countif(is_of_unknown_product) as items_of_unknown_products,
        min(if(is_of_unknown_product, id, null)) as items_of_unknown_products_id,
        countif(has_negative_price) as items_with_negative_price,
        min(if(has_negative_price, id, null)) as items_with_negative_price_id,
    from checked_items
),

dated as (
    select
        checked_orders.order_date,
        div(date_diff(orders_summary.last_date, checked_orders.order_date, day), 7) as week,
    from checked_orders
    cross join orders_summary
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
    orders_summary.orders,
    orders_summary.orders_of_unknown_users,
    orders_summary.orders_of_unknown_users_id,
    orders_summary.orders_before_sign_up,
    orders_summary.orders_before_sign_up_id,
    items_summary.order_items,
    items_summary.items_of_unknown_orders,
    items_summary.items_of_unknown_orders_id,
    items_summary.items_of_unknown_products,
    items_summary.items_of_unknown_products_id,
    items_summary.items_with_negative_price,
    items_summary.items_with_negative_price_id,
    date_diff(orders_summary.last_date, orders_summary.first_date, day) as days_of_orders,
    cast(orders_summary.last_date as string) as last_date,
    median_week.median_orders,
    thin_weeks.thin_weeks,
    cast(before_thin_weeks.last_usual_date as string) as last_usual_date,
from orders_summary
cross join items_summary
cross join median_week
cross join thin_weeks
cross join before_thin_weeks;
