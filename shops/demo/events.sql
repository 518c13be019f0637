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
    -- Slot and propensity of a recommendation that was shown.
    CASE
        WHEN slot IS NULL THEN json_object('country', country, 'device', device)
        ELSE json_object(
            'country', country, 'device', device, 'slot', slot, 'propensity', propensity
        )
    END::VARCHAR AS properties,
    _file,
    _row
FROM raw.events
