-- The features as they were one snapshot ago, as in an online store without a sync since then.
--
-- grain: one row per customer and snapshot, as in 02_build_features.sql.
-- The layout is repeated, because BigQuery refuses to replace a table by one with another.
create or replace table `{{ tables.features }}`
partition by timestamp_trunc(feature_timestamp, day)
cluster by customer_id
as
select *
from `{{ tables.features }}`
where feature_timestamp < (
    select max(feature_timestamp) from `{{ tables.features }}`
);
