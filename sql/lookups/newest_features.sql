-- A sample of the newest snapshot: one in so many customers, by hash of the id.
--
-- grain: one row per customer.
select *
from `{{ tables.features }}`
where
    feature_timestamp = @feature_timestamp
    and mod(farm_fingerprint(customer_id), @one_in) = 0
order by customer_id;
