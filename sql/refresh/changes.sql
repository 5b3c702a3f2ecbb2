-- What the source has now that the raw tables do not have, or have otherwise, and which snapshots
-- that makes due. The source is read as 01_prepare_bq.sql copied it, into tables beside the raw ones.
--
-- grain: one row.
-- A feature of snapshot T depends on nothing after T. So a change counts from `changed_from`: an
-- order and an item from their time, a return from its own time, a sign-up from the customer's
-- first order, a product's category from its first order.
-- Snapshots go on from the newest one in steps of step_days, up to the day of the newest order.
-- Sums inside div() have parentheses of their own: the local BigQuery drops the function's.
with source_users as (
    select * from `{{ arrived.raw_users }}`
),

source_orders as (
    select * from `{{ arrived.raw_orders }}`
),

source_items as (
    select * from `{{ arrived.raw_order_items }}`
),

source_products as (
    select * from `{{ arrived.raw_products }}`
),

raw_users as (
    select * from `{{ tables.raw_users }}`
),

raw_orders as (
    select * from `{{ tables.raw_orders }}`
),

raw_items as (
    select * from `{{ tables.raw_order_items }}`
),

raw_products as (
    select * from `{{ tables.raw_products }}`
),

changed_orders as (
    select
        raw_orders.order_id is null as is_new,
        least(
            coalesce(source_orders.ordered_at, raw_orders.ordered_at),
            coalesce(raw_orders.ordered_at, source_orders.ordered_at)
        ) as changed_from,
    from source_orders
    full join raw_orders
        on source_orders.order_id = raw_orders.order_id
    where
        source_orders.order_id is null
        or raw_orders.order_id is null
        or source_orders.customer_id != raw_orders.customer_id
        or source_orders.ordered_at != raw_orders.ordered_at
        or source_orders.known_at != raw_orders.known_at
),

compared_items as (
    select
        raw_items.order_item_id is null as is_new,
        case
            when raw_items.order_item_id is null then source_items.ordered_at
            when source_items.order_item_id is null then raw_items.ordered_at
            when
                source_items.customer_id != raw_items.customer_id
                or source_items.order_id != raw_items.order_id
                or source_items.ordered_at != raw_items.ordered_at
                or source_items.known_at != raw_items.known_at
                or source_items.product_id != raw_items.product_id
                or coalesce(source_items.sale_price, -1) != coalesce(raw_items.sale_price, -1)
                then least(source_items.ordered_at, raw_items.ordered_at)
            when
                coalesce(source_items.returned_at, timestamp '9999-12-31')
                != coalesce(raw_items.returned_at, timestamp '9999-12-31')
                then greatest(source_items.ordered_at, least(
                    coalesce(source_items.returned_at, raw_items.returned_at),
                    coalesce(raw_items.returned_at, source_items.returned_at)
                ))
        end as changed_from,
    from source_items
    full join raw_items
        on source_items.order_item_id = raw_items.order_item_id
),

changed_customers as (
    select source_users.customer_id
    from source_users
    inner join raw_users
        on source_users.customer_id = raw_users.customer_id
    where source_users.signed_up_at != raw_users.signed_up_at
),

changed_products as (
    select coalesce(source_products.product_id, raw_products.product_id) as product_id
    from source_products
    full join raw_products
        on source_products.product_id = raw_products.product_id
    where
        source_products.product_id is null
        or raw_products.product_id is null
        or coalesce(source_products.category, '') != coalesce(raw_products.category, '')
),

changes as (
    select is_new, 1 as is_order, changed_from from changed_orders
    union all
    select is_new, 0 as is_order, changed_from from compared_items where changed_from is not null
    union all
    select false as is_new, 0 as is_order, source_orders.ordered_at as changed_from
    from source_orders
    inner join changed_customers
        on source_orders.customer_id = changed_customers.customer_id
    union all
    select false as is_new, 0 as is_order, source_items.ordered_at as changed_from
    from source_items
    inner join changed_products
        on source_items.product_id = changed_products.product_id
),

changes_summary as (
    select
        countif(is_new and is_order = 1) as new_orders,
        countif(not is_new and is_order = 1) as changed_orders,
        countif(not is_new and is_order = 0) as changed_others,
        min(changed_from) as changed_from,
    from changes
),

newest as (
    select max(feature_timestamp) as newest_snapshot from `{{ tables.features }}`
),

last_day as (
    select date(max(ordered_at)) as last_date from source_orders
),

raw_summary as (
    select count(*) as raw_orders from raw_orders
),

-- In steps from the newest snapshot: forward to the last one that is due, and back to the first
-- one that a change can alter.
steps as (
    select
        div(
            date_diff(last_day.last_date, date(newest.newest_snapshot), day), @step_days
        ) as steps_due,
        div((
            unix_seconds(newest.newest_snapshot) - unix_seconds(changes_summary.changed_from)
        ), (86400 * @step_days)) as steps_back,
    from changes_summary
    cross join last_day
    cross join newest
)

select
    changes_summary.new_orders,
    changes_summary.changed_orders,
    changes_summary.changed_others,
    raw_summary.raw_orders,
    changes_summary.changed_from,
    timestamp(last_day.last_date) as last_day,
    newest.newest_snapshot,
    timestamp_add(
        newest.newest_snapshot, interval (steps.steps_due * @step_days) day
    ) as snapshots_until,
    if(
        coalesce(changes_summary.changed_from <= newest.newest_snapshot, false),
        timestamp_sub(newest.newest_snapshot, interval (steps.steps_back * @step_days) day),
        timestamp_add(newest.newest_snapshot, interval @step_days day)
    ) as snapshots_from,
from changes_summary
cross join raw_summary
cross join last_day
cross join newest
cross join steps;
