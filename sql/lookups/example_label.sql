-- A training row for the picture of the join: of a customer with two recent orders and one to come
-- (in small data the next best, any row with features). Of those rows, the first customer at the
-- middle label date.
--
-- grain: one row.
with train as (
    select * from `{{ tables.train }}`
),

candidates as (
    select
        customer_id,
        label_timestamp,
        feature_timestamp,
        if(orders_90d = 2 and {{ label_column }} = 0, 0, 1) as preference,
    from train
    where feature_timestamp is not null
),

preferred as (
    select candidates.*
    from candidates
    where preference = (select min(preference) from candidates)
),

rows_per_date as (
    select
        label_timestamp,
        count(*) as row_count,
    from preferred
    group by label_timestamp
),

rows_up_to_date as (
    select
        label_timestamp,
        sum(row_count) over (order by label_timestamp) as rows_so_far,
        sum(row_count) over () as all_rows,
    from rows_per_date
),

middle as (
    select min(label_timestamp) as label_timestamp
    from rows_up_to_date
    where 2 * rows_so_far >= all_rows
)

select
    preferred.customer_id,
    preferred.label_timestamp,
    preferred.feature_timestamp,
from preferred
inner join middle
    on preferred.label_timestamp = middle.label_timestamp
order by preferred.customer_id
limit 1;
