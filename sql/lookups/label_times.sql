-- How many label rows have features from after their own time, and the newest features of all.
--
-- grain: one row.
select
    count(*) as label_rows,
    countif(feature_timestamp > label_timestamp) as from_after,
    max(feature_timestamp) as newest_features,
from `{{ table }}`;
