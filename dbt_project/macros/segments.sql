{#- Where customers stand among the others; the same words in user_rfm and in segment_history. -#}

{#- The fifth, 1 to 5 (the highest values), in which a value stands among all, or among those `within` the
    same. Equal values get equal scores: that of the first of them. -#}
{% macro fifth(value, within=none) -%}
    {%- set rows = 'partition by ' ~ within if within else '' -%}
    cast(1 + floor(5 * (rank() over ({{ rows }} order by {{ value }}) - 1) / cast(count(*) over ({{ rows }}) as double)) as integer)
{%- endmacro %}

{#- The RFM segment, by r_score and f_score; the first that fits. -#}
{% macro rfm_segment() -%}
    case
        when r_score >= 4 and f_score >= 4 then 'champion'
        when r_score >= 3 and f_score >= 3 then 'loyal'
        when r_score >= 4 then 'recent'
        when r_score = 3 then 'cooling'
        when f_score >= 3 then 'at_risk'
        else 'lost'
    end
{%- endmacro %}

{#- The value tier, by m_score. -#}
{% macro value_tier() -%}
    case m_score when 5 then 'top' when 4 then 'high' when 3 then 'middle' else 'low' end
{%- endmacro %}

{#- The days on which scores are kept, as a list: the last day of every month since the shop's first, and
    the night. -#}
{%- macro month_ends() -%}
    {%- set one_day = modules.datetime.timedelta(days=1) -%}
    {%- set night = modules.datetime.date.fromisoformat(given('night') | string) -%}
    {%- set first = modules.datetime.date.fromisoformat(var('start') | string) -%}
    {%- set days = [] -%}
    {%- for month in range(12 * first.year + first.month, 12 * night.year + night.month) -%}
        {%- do days.append((modules.datetime.date(month // 12, month % 12 + 1, 1) - one_day).isoformat()) -%}
    {%- endfor -%}
    {%- do days.append(night.isoformat()) -%}
    {{ return(days) }}
{%- endmacro -%}
