-- Customers of the newest snapshot with an order in the last 90 days: the population that the
-- model was trained on. Chosen by hash of the id, so that the same ones come each time.
--
-- grain: one row per customer.
select customer_id
from `{{ tables.features }}`
where
    feature_timestamp = @feature_timestamp
    and orders_90d > 0
order by farm_fingerprint(customer_id)
limit @count;
