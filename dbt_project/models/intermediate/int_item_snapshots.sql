{#- Built whole: the catalogue may say something new about any day. -#}
with snapshots as (
    {{ snapshots_of(snapshot_days()) }}
),

versions as (
    select
        item_id,
        price,
        valid_from,
        lead(valid_from) over (partition by item_id order by valid_from) as next_valid_from,
        min(valid_from) over (partition by item_id) as first_valid_from
    from {{ ref('stg_items') }}
),

-- a snapshot knows nothing of its future: the price is that of the version valid at it
catalogued as (
    select
        versions.item_id,
        snapshots.event_timestamp,
        cast(versions.first_valid_from as date) as first_day,
        versions.price
    from versions
    inner join snapshots
        on snapshots.event_timestamp > versions.valid_from
        and (versions.next_valid_from is null or snapshots.event_timestamp <= versions.next_valid_from)
)

select
    coalesce(catalogued.item_id, history.item_id) as item_id,
    coalesce(catalogued.event_timestamp, history.event_timestamp) as event_timestamp,
    least(catalogued.first_day, history.first_day) as first_day,
    catalogued.price
from catalogued
full outer join {{ ref('int_item_history') }} as history
    on catalogued.item_id = history.item_id and catalogued.event_timestamp = history.event_timestamp
