-- The label rows of one in so many customers, by hash of the id (as newest_features.sql).
--
-- grain: one row per label row.
select *
from `{{ table }}`
where mod(farm_fingerprint(concat('sample ', customer_id)), @one_in) = 0;
