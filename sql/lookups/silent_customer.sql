-- A customer with two orders, the last one 100 to 200 days before the newest snapshot, so that
-- the 90-day windows are empty. In small data the next best: empty windows, or any customer.
--
-- grain: one row.
select customer_id
from `{{ tables.features }}`
where feature_timestamp = @feature_timestamp
order by
    if(days_since_last_order between 100 and 200 and orders_lifetime = 2, 0, 1),
    if(days_since_last_order >= 100, 0, 1),
    customer_id
limit 1;
