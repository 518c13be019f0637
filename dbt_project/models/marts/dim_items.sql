with catalogue as (
    select * from {{ ref('int_catalogue') }}
),

seen as (
    select item_id, first_event_at, first_sold_at
    from {{ ref('int_item_history') }}
    where event_timestamp = {{ end_of(given('night')) }}
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
    catalogue.item_id is not null as is_catalogued
from catalogue
full outer join seen on catalogue.item_id = seen.item_id
