-- The shop's tracker and till write one row per action -> events.
SELECT
    'e' || id AS event_id,
    -- Milliseconds since 1970, UTC.
    make_timestamp(ts_ms * 1000) AS event_ts,
    customer AS user_id,
    'v' || visit AS session_id,
    CASE action
        WHEN 'page_view' THEN 'view'
        WHEN 'item_click' THEN 'click'
        WHEN 'search' THEN 'search'
        WHEN 'basket_add' THEN 'cart_add'
        WHEN 'basket_remove' THEN 'cart_remove'
        WHEN 'checkout_start' THEN 'checkout'
        WHEN 'paid' THEN 'purchase'
        WHEN 'returned' THEN 'refund'
        WHEN 'list_shown' THEN 'exposure'
        -- An action unknown here goes to quarantine under its own name.
        ELSE action
    END AS event_type,
    sku AS item_id,
    'o' || order_no AS order_id,
    pieces AS quantity,
    price_cents::DECIMAL(18, 4) / 100 AS unit_price,
    CASE WHEN price_cents IS NOT NULL THEN 'EUR' END AS currency,
    on_page_ms AS dwell_ms,
    search_words AS query,
    source AS channel,
    -- Slot, propensity and arm of a recommendation that was shown; a page that says `sold out`.
    CASE
        WHEN arm IS NOT NULL THEN json_object(
            'country', country, 'device', device, 'slot', slot, 'propensity', propensity,
            'experiment', experiment, 'arm', arm
        )
        WHEN slot IS NOT NULL THEN json_object(
            'country', country, 'device', device, 'slot', slot, 'propensity', propensity
        )
        WHEN NOT in_stock THEN json_object(
            'country', country, 'device', device, 'in_stock', in_stock
        )
        ELSE json_object('country', country, 'device', device)
    END::VARCHAR AS properties,
    _file,
    _row
FROM raw.events
