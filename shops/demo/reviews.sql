-- One JSON line per review.
SELECT
    'r' || review_no AS review_id,
    -- Local time with its offset; the session's zone is UTC.
    written_at::TIMESTAMPTZ::TIMESTAMP AS event_ts,
    customer AS user_id,
    sku AS item_id,
    stars AS rating,
    words AS "text",
    _file,
    _row
FROM raw.reviews
