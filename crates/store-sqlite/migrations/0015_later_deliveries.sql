-- Where a delivery is that was never tried and is not where its message says: it was added later, or moved because a clock had
-- been ahead. Whoever would add it again finds it here.
CREATE INDEX delivery_later ON delivery (endpoint_no, message_no) WHERE trigger = 2;
