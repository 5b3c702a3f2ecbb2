-- The newest row of each of these customers.
--
-- grain: one row per customer.
select *
from `{{ tables.features }}`
where customer_id in unnest(@customers)
qualify row_number() over (
    partition by customer_id order by feature_timestamp desc
) = 1;
