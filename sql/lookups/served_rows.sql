-- What was served since a time, beside what the customer's row was at that time: the newest
-- snapshot at or before it, as the point-in-time join of 04_build_train.sql would choose it.
--
-- grain: one row per logged request. Nulls where there is no such snapshot. A request that was
-- loaded twice counts once.
select
    served.request_id,
    served.customer_id,

    served.features as served_features,
{%- for feature in features %}
    features.{{ feature.name }},
{%- endfor %}

    served.served_at,
    served.feature_timestamp as served_snapshot,
    features.feature_timestamp,
from `{{ tables.served }}` as served
left join `{{ tables.features }}` as features
    on served.customer_id = features.customer_id
    and served.served_at >= features.feature_timestamp
where served.served_at >= @since
qualify row_number() over (
    partition by served.request_id order by features.feature_timestamp desc
) = 1
order by served.served_at;
