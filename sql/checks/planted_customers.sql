-- The customers of a small copy in which faults are planted; the same ones each time.
--
-- grain: one row per customer. Half of them ordered in the 90 days before the snapshot, half
-- only in the year before that: these have NULLs now and had values then.
select customer_id
from `{{ tables.features }}`
where
    feature_timestamp = @feature_timestamp
    and days_since_last_order < 400
qualify row_number() over (
    partition by orders_90d > 0 order by farm_fingerprint(customer_id)
) <= @count_each;
