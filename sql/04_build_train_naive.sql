-- train_dataset_naive: the WRONG join, built only to measure its effect (notebook 05).
--
-- grain: one row per row of labels_customer_churn.
-- Each label gets the latest features of its customer: the obvious join if features are a table
-- of current values. For a label of last autumn it reads this summer's snapshot, which already
-- counts the orders that the label is about.
create or replace table `{{ tables.train_naive }}`
partition by timestamp_trunc(label_timestamp, day)
cluster by customer_id
as
with features as (
    select * from `{{ tables.features }}`
),

labels as (
    select * from `{{ tables.labels }}`
),

latest as (
    select *
    from features
    qualify row_number() over (
        partition by customer_id order by feature_timestamp desc
    ) = 1
)

select
    labels.customer_id,

    labels.{{ label_column }},
{% for feature in features %}
    latest.{{ feature.name }},
{%- endfor %}

    labels.label_timestamp,
    latest.feature_timestamp,
from labels
left join latest
    on labels.customer_id = latest.customer_id;
