{#- What dbt's own cross-database macros lack. The default is DuckDB; Spark has its own words. -#}

{#- The text under `key` of a JSON object; NULL where the text is no JSON. -#}
{% macro json_text(column, key) -%}
    {{ return(adapter.dispatch('json_text')(column, key)) }}
{%- endmacro %}
{% macro default__json_text(column, key) -%}
    try(json_extract_string({{ column }}, '$.{{ key }}'))
{%- endmacro %}
{% macro spark__json_text(column, key) -%}
    get_json_object({{ column }}, '$.{{ key }}')
{%- endmacro %}

{#- The smallest value that has at least `share` of the values at or below it: never interpolated. -#}
{% macro quantile(column, share) -%}
    {{ return(adapter.dispatch('quantile')(column, share)) }}
{%- endmacro %}
{% macro default__quantile(column, share) -%}
    quantile_disc({{ column }}, {{ share }})
{%- endmacro %}
{% macro spark__quantile(column, share) -%}
    percentile_disc({{ share }}) within group (order by {{ column }})
{%- endmacro %}

{#- `column` of the first row in the order of the columns `by` (unique together); NULLs are skipped. -#}
{% macro first_by(column, by) -%}
    {{ return(adapter.dispatch('first_by')(column, by)) }}
{%- endmacro %}
{% macro default__first_by(column, by) -%}
    arg_min({{ column }}, row({{ by | join(', ') }}))
{%- endmacro %}
{% macro spark__first_by(column, by) -%}
    min_by({{ column }}, case when {{ column }} is not null then struct({{ by | join(', ') }}) end)
{%- endmacro %}

{#- The same for the last row. -#}
{% macro last_by(column, by) -%}
    {{ return(adapter.dispatch('last_by')(column, by)) }}
{%- endmacro %}
{% macro default__last_by(column, by) -%}
    arg_max({{ column }}, row({{ by | join(', ') }}))
{%- endmacro %}
{% macro spark__last_by(column, by) -%}
    max_by({{ column }}, case when {{ column }} is not null then struct({{ by | join(', ') }}) end)
{%- endmacro %}

{#- The first level of a path 'A > B > C'. -#}
{% macro path_root(column) -%}
    {{ return(adapter.dispatch('path_root')(column)) }}
{%- endmacro %}
{% macro default__path_root(column) -%}
    trim(split_part({{ column }}, '>', 1))
{%- endmacro %}
{% macro spark__path_root(column) -%}
    trim(substring_index({{ column }}, '>', 1))
{%- endmacro %}

{#- The numbers from 0 to `last` as a column `n`. -#}
{% macro numbers(last) -%}
    {{ return(adapter.dispatch('numbers')(last)) }}
{%- endmacro %}
{% macro default__numbers(last) -%}
    select cast(range as integer) as n from range({{ last + 1 }})
{%- endmacro %}
{% macro spark__numbers(last) -%}
    select cast(id as integer) as n from range({{ last + 1 }})
{%- endmacro %}
