-- A customer with two orders, the last one 100 to 200 days before the newest snapshot, so that
-- the 90-day windows are empty.
--
-- grain: one row.
select customer_id
from `{{ tables.features }}`
where
    feature_timestamp = @feature_timestamp
    and days_since_last_order between 100 and 200
    and orders_lifetime = 2
order by customer_id
limit 1;
