-- Words and tags are lists, as JSON.
SELECT case_no AS patient, words AS tokens, marks AS tags
FROM notes
ORDER BY id;
