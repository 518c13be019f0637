{#- `night` or `reprocess_from` (ISO), from the environment where it is set: other --vars than last night's
    make dbt parse the whole project anew, a value that is only read when a model runs does not. -#}
{% macro given(name) -%}
    {{ return(env_var('PERENNIAL_' ~ name | upper, var(name)) if execute else var(name)) }}
{%- endmacro %}

{#- The as-of day, as a DATE. -#}
{% macro night() -%}
    cast('{{ given("night") }}' as date)
{%- endmacro %}

{#- First day that this run builds again, as a DATE: the day before `reprocess_from`. A session that is
    open at midnight and the dwell of the page it is on belong to that day, and end only on the next.
    From the shop's first day on means everything, whatever may have landed for days before it. -#}
{% macro window_start() -%}
    {%- set reprocess_from = modules.datetime.date.fromisoformat(given('reprocess_from')) -%}
    {%- if given('reprocess_from') <= var('start') -%}
    cast('1970-01-01' as date)
    {%- else -%}
    cast('{{ (reprocess_from - modules.datetime.timedelta(days=1)).isoformat() }}' as date)
    {%- endif -%}
{%- endmacro %}

{#- Incremental strategy `replace_days`: everything from the window's start on goes, also what lies
    after the night, and the model's rows take its place, in one transaction. The model names the
    column that says where a row lies in `meta.replace_by`. With a `unique_key`, older rows go too
    where the model has one of the same key. -#}
{% macro get_incremental_replace_days_sql(arguments) -%}
    {%- set columns = get_quoted_csv(arguments['dest_columns'] | map(attribute='name')) -%}
    {%- set key = arguments['unique_key'] -%}
    delete from {{ arguments['target_relation'] }}
    where {{ config.get('meta')['replace_by'] }} >= {{ window_start() }};
    {% if key -%}
    delete from {{ arguments['target_relation'] }}
    where {{ key }} in (select {{ key }} from {{ arguments['temp_relation'] }});
    {%- endif %}
    insert into {{ arguments['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ arguments['temp_relation'] }}
{%- endmacro %}

{#- In an incremental run, keeps only rows of the days that are built again. -#}
{% macro in_window(column) -%}
    {% if is_incremental() %}{{ column }} >= {{ window_start() }}{% else %}true{% endif %}
{%- endmacro %}

{#- After an incremental build: sets `is_known_item` right where the catalogue has changed since. Few rows
    are of unknown items, and hardly ever does an item leave, so the storage skips nearly all the rest. -#}
{% macro refresh_known_items() -%}
    {%- if is_incremental() -%}
    update {{ this }}
    set is_known_item = true
    where not is_known_item and item_id in (select item_id from {{ ref('int_catalogue') }});
    update {{ this }}
    set is_known_item = false
    where is_known_item and item_id in (
        select item_id from {{ ref('int_known_items') }}
        except
        select item_id from {{ ref('int_catalogue') }}
    )
    {%- endif -%}
{%- endmacro %}
