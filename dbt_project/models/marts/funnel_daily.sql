{#- Incremental: a session counts on the day it began. The days built again are those on which a
    session of the window began, which may lie well before the window. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    unique_key='funnel_date',
    on_schema_change='fail',
    meta={'replace_by': 'funnel_date'},
) }}
{%- set stages = {'view': 'views', 'cart': 'cart_adds', 'checkout': 'checkouts', 'purchase': 'purchases'} %}

with sessions as (
    select * from {{ ref('fct_sessions') }}
    {% if is_incremental() %}
    where session_date in (
        select session_date from {{ ref('fct_sessions') }} where ended_at >= {{ window_start() }}
    )
    {% endif %}
)

select
    session_date as funnel_date,
    count(*) as sessions,
    {%- for stage, acts in stages.items() %}
    count(case when {{ acts }} > 0 then 1 end) as sessions_{{ stage }},
    {%- endfor %}
    count(distinct user_id) as users
    {%- for stage, acts in stages.items() %},
    count(distinct case when {{ acts }} > 0 then user_id end) as users_{{ stage }}
    {%- endfor %}
from sessions
group by session_date
