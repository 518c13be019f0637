{#- Incremental by day: the days before the window are only counted, for the pairs that buy in it. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    on_schema_change='fail',
    meta={'replace_by': 'buying_date'},
) }}

with days as (
    select distinct item_id, user_id, line_date as buying_date
    from {{ ref('fct_order_lines') }}
    where user_id is not null and item_id is not null and line_type = 'purchase'
        and {{ in_window('line_date') }}
),

numbered as (
    select *, row_number() over (partition by item_id, user_id order by buying_date) as nth_day
    from days
)

select numbered.item_id, numbered.user_id, numbered.buying_date,
    {%- if is_incremental() %}
    numbered.nth_day + coalesce(earlier.days, 0) as nth_day
from numbered
left join (
    select item_id, user_id, count(*) as days
    from {{ this }}
    where buying_date < {{ window_start() }} and user_id in (select user_id from days)
    group by item_id, user_id
) as earlier
    on numbered.item_id = earlier.item_id and numbered.user_id = earlier.user_id
    {%- else %}
    numbered.nth_day
from numbered
    {%- endif %}
order by numbered.buying_date
