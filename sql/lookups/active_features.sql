-- The customers of the newest snapshot whose last order is recent enough for a label: the
-- population that the base rate speaks of. At most so many, chosen as in newest_features.sql.
--
-- grain: one row per customer.
select features.*
from `{{ tables.features }}` as features
where
    features.feature_timestamp = @feature_timestamp
    and features.customer_id in (
        select customer_id
        from `{{ tables.raw_orders }}`
        where
            ordered_at > timestamp_sub(@feature_timestamp, interval @active_days day)
            and ordered_at <= @feature_timestamp
    )
order by farm_fingerprint(concat('sample ', features.customer_id))
limit @most;
