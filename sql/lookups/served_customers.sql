-- Customers of the newest snapshot whose last order is recent enough for a label: the population
-- that the model was trained on. Chosen by hash of the id, so that the same ones come each time.
--
-- grain: one row per customer.
select customer_id
from `{{ tables.features }}`
where
    feature_timestamp = @feature_timestamp
    and customer_id in (
        select customer_id
        from `{{ tables.raw_orders }}`
        where
            ordered_at > timestamp_sub(@feature_timestamp, interval @active_days day)
            and ordered_at <= @feature_timestamp
    )
order by farm_fingerprint(customer_id)
limit @count;
