-- The support desk's tickets, one row per message.
SELECT
    't' || ticket || '-' || part AS message_id,
    -- Local time with its offset; the session's zone is UTC.
    sent_at::TIMESTAMPTZ::TIMESTAMP AS event_ts,
    't' || ticket AS conversation_id,
    customer AS user_id,
    "from" AS sender,
    sku AS item_id,
    'o' || order_no AS order_id,
    body AS "text",
    _file,
    _row
FROM raw.messages
