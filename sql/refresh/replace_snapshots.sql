-- Put the snapshots from snapshots_from to snapshots_until into features_customer, and remove
-- those that are older than the history.
--
-- One statement: BigQuery applies a MERGE as a whole or not at all, and a reader sees the table
-- before it or after it.
merge `{{ tables.features }}` as kept
using (
{{ built }}
) as built
    on kept.customer_id = built.customer_id
    and kept.feature_timestamp = built.feature_timestamp
when matched then update set
{%- for feature in features %}
    {{ feature.name }} = built.{{ feature.name }}{{ "" if loop.last else "," }}
{%- endfor %}
when not matched then insert (
{%- for feature in features %}
    {{ feature.name }},
{%- endfor %}
    customer_id,
    feature_timestamp
) values (
{%- for feature in features %}
    built.{{ feature.name }},
{%- endfor %}
    built.customer_id,
    built.feature_timestamp
)
when not matched by source and (
    kept.feature_timestamp >= @snapshots_from
    or kept.feature_timestamp < timestamp_sub(
        @snapshots_until, interval (@history_days + @horizon_days + @step_days) day
    )
) then delete;
