-- A sample of the newest snapshot: at most so many customers, chosen by hash of the id. Hashed with
-- a word before it, since sql/01 (sample_percent) keeps customers by the hash of the id alone.
--
-- grain: one row per customer.
select *
from `{{ tables.features }}`
where feature_timestamp = @feature_timestamp
order by farm_fingerprint(concat('sample ', customer_id))
limit @most;
