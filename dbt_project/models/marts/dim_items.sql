with catalogue as (
    select * from {{ ref('int_catalogue') }}
),

seen as (
    select item_id, first_event_at, first_sold_at
    from {{ ref('int_item_history') }}
    where event_timestamp = {{ end_of(given('night')) }}
),

stock as (
    select
        item_id,
        {{ last_by("coalesce(" ~ json_text('properties', 'in_stock') ~ " = 'false', false)", ['event_ts', 'event_id']) }} as is_sold_out
    from {{ ref('fct_events') }}
    -- what was sold out longer ago than this, and nobody has looked at since, counts as back
    where event_date > {{ dbt.dateadd('day', -28, night()) }}
        and event_type in ('view', 'cart_add', 'purchase')
    group by item_id
)

select
    coalesce(catalogue.item_id, seen.item_id) as item_id,
    catalogue.title,
    catalogue.description,
    catalogue.category_path,
    catalogue.category,
    catalogue.brand,
    catalogue.price,
    catalogue.valid_from,
    seen.first_event_at,
    seen.first_sold_at,
    catalogue.item_id is not null as is_catalogued,
    coalesce(stock.is_sold_out, false) as is_sold_out
from catalogue
full outer join seen on catalogue.item_id = seen.item_id
left join stock on coalesce(catalogue.item_id, seen.item_id) = stock.item_id
