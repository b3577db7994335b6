-- The notes that are read.
SELECT note_id FROM note WHERE note_date >= '2026-01-01'
