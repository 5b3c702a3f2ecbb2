-- Take what nobody knew at some time out of a copy of the raw tables. Features of that time must
-- not change by it (lib/proof/ladder.py runs the three parts one after the other).
--
-- 1: what was changed later.
create or replace table `{{ tables.raw_order_items }}`
as
select
    customer_id,
    order_id,
    order_item_id,
    product_id,
    sale_price,
    ordered_at,
    known_at,
    if(returned_at > @at, null, returned_at) as returned_at,
from `{{ tables.raw_order_items }}`;

-- 2: what had happened, and arrived later.
create or replace table `{{ tables.raw_orders }}`
as
select *
from `{{ tables.raw_orders }}`
where known_at <= @at or ordered_at > @at;

create or replace table `{{ tables.raw_order_items }}`
as
select *
from `{{ tables.raw_order_items }}`
where known_at <= @at or ordered_at > @at;

-- 3: what happened later. The newest order stays, because the snapshots of
-- 02_build_features.sql count back from it.
create or replace table `{{ tables.raw_orders }}`
as
select *
from `{{ tables.raw_orders }}`
where
    ordered_at <= @at
    or ordered_at = (select max(ordered_at) from `{{ tables.raw_orders }}`);

create or replace table `{{ tables.raw_order_items }}`
as
select *
from `{{ tables.raw_order_items }}`
where ordered_at <= @at;
