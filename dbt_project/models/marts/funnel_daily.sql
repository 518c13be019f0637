{#- Rebuilt whole: a session counts on the day it began, which may lie well before the first day that
    changed, and counting sessions is cheap. -#}
{%- set stages = {'view': 'views', 'cart': 'cart_adds', 'checkout': 'checkouts', 'purchase': 'purchases'} -%}

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
from {{ ref('fct_sessions') }}
group by session_date
