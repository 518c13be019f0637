{#- Only ever added to: an item that has left the catalogue is still known to have been in it. -#}
{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='fail') }}

select item_id from {{ ref('int_catalogue') }}
{% if is_incremental() -%}
where item_id not in (select item_id from {{ this }})
{%- endif %}
