BEGIN TRANSACTION;
CREATE TABLE checkpoints (
	run VARCHAR(32) NOT NULL, 
	round INTEGER NOT NULL, 
	file TEXT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	PRIMARY KEY (run, round), 
	FOREIGN KEY(run) REFERENCES runs (run)
);
INSERT INTO "checkpoints" VALUES('0a1b2c3d',1,'round-00001-0123456789ab.safetensors','0000000000000000000000000000000000000000000000000000000000000000');
CREATE TABLE cuts (
	id INTEGER NOT NULL, 
	run VARCHAR(32) NOT NULL, 
	round INTEGER NOT NULL, 
	split VARCHAR(16) NOT NULL, 
	institution VARCHAR(64) NOT NULL, 
	task VARCHAR(64) NOT NULL, 
	told BIGINT NOT NULL, 
	used FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(run) REFERENCES runs (run)
);
INSERT INTO "cuts" VALUES(1,'0a1b2c3d',1,'train','bank','t',90000,300.5);
CREATE TABLE evaluations (
	id INTEGER NOT NULL, 
	run VARCHAR(32) NOT NULL, 
	round INTEGER NOT NULL, 
	institution VARCHAR(64) NOT NULL, 
	split VARCHAR(16) NOT NULL, 
	epsilon FLOAT NOT NULL, 
	ledger VARCHAR(96), 
	PRIMARY KEY (id), 
	FOREIGN KEY(run) REFERENCES runs (run)
);
INSERT INTO "evaluations" VALUES(1,'0a1b2c3d',1,'bank','validation',0.25,NULL);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	run VARCHAR(32) NOT NULL, 
	text TEXT NOT NULL, time VARCHAR(32), 
	PRIMARY KEY (id), 
	FOREIGN KEY(run) REFERENCES runs (run)
);
INSERT INTO "events" VALUES(1,'0a1b2c3d','Round 1 of 2: validation score 0.250, 1.5 s',NULL);
INSERT INTO "events" VALUES(2,'0a1b2c3d','Paused after round 1','2026-11-29T23:21:30.031182+00:00');
CREATE TABLE findings (
	id INTEGER NOT NULL, 
	run VARCHAR(32) NOT NULL, 
	round INTEGER NOT NULL, 
	institution VARCHAR(64) NOT NULL, 
	part VARCHAR(64) NOT NULL, 
	filter VARCHAR(32) NOT NULL, 
	norm FLOAT NOT NULL, 
	cosine FLOAT, 
	verdict VARCHAR(16) NOT NULL, 
	reason TEXT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(run) REFERENCES runs (run)
);
INSERT INTO "findings" VALUES(1,'0a1b2c3d',1,'bank','adapter','median',1.0,NULL,'kept',NULL);
CREATE TABLE replies (
	id INTEGER NOT NULL, 
	run VARCHAR(32) NOT NULL, 
	round INTEGER NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	institution VARCHAR(64) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	reason TEXT, 
	bytes_up BIGINT NOT NULL, 
	bytes_down BIGINT NOT NULL, 
	seconds FLOAT NOT NULL, 
	examples JSON, 
	losses JSON, refusal VARCHAR(16), software VARCHAR(64), 
	PRIMARY KEY (id), 
	FOREIGN KEY(run) REFERENCES runs (run)
);
INSERT INTO "replies" VALUES(1,'0a1b2c3d',1,'train','hospital','ok',NULL,10,20,0.5,'{"t": 3}','{"t": 0.5}',NULL,NULL);
INSERT INTO "replies" VALUES(2,'0a1b2c3d',1,'train','bank','refused','This site sends updates of norm at most 1 (policy.max_norm): agree.',10,20,0.5,NULL,NULL,'policy',NULL);
INSERT INTO "replies" VALUES(3,'0a1b2c3d',1,'train','law_firm','refused','not asked to train: budget: nothing is left',10,20,0.5,NULL,NULL,NULL,NULL);
INSERT INTO "replies" VALUES(4,'0a1b2c3d',1,'train','clinic','dropped','data: no refusal, though it looks like one',10,20,0.5,NULL,NULL,NULL,NULL);
INSERT INTO "replies" VALUES(5,'0a1b2c3d',1,'train','court','refused','no kind at all',10,20,0.5,NULL,NULL,NULL,NULL);
INSERT INTO "replies" VALUES(6,'0a1b2c3d',1,'train','agency','missing','no answer within 60 s',10,20,0.5,NULL,NULL,NULL,NULL);
CREATE TABLE rounds (
	run VARCHAR(32) NOT NULL, 
	round INTEGER NOT NULL, 
	seconds FLOAT NOT NULL, 
	score FLOAT, 
	participants INTEGER, 
	norm FLOAT, 
	PRIMARY KEY (run, round), 
	FOREIGN KEY(run) REFERENCES runs (run)
);
INSERT INTO "rounds" VALUES('0a1b2c3d',1,1.5,0.25,2,0.5);
INSERT INTO "rounds" VALUES('0a1b2c3d',2,3.0,0.5,2,0.5);
CREATE TABLE runs (
	run VARCHAR(32) NOT NULL, 
	federation VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	agreement TEXT NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	reason TEXT, 
	flower_run VARCHAR(32), 
	started VARCHAR(32) NOT NULL, 
	ended VARCHAR(32), attempt INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, pausing BOOLEAN NOT NULL DEFAULT 0, parent VARCHAR(32), parent_round INTEGER, asking JSON, 
	PRIMARY KEY (run)
);
INSERT INTO "runs" VALUES('0a1b2c3d','clinics','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','{}','completed',NULL,'1234567890123456789','2026-11-24T10:00:00.000000+00:00','2026-11-24T12:00:00.000000+00:00',2,1,0,NULL,NULL,'{"round": 1, "kind": "train", "names": ["bank"]}');
INSERT INTO "runs" VALUES('4e5f6a7b','clinics','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','{}','failed','Expected at least 2 valid updates in round 1, but 1 came.','1234567890123456789','2026-11-24T10:40:00.000000+00:00','2026-11-24T12:00:00.000000+00:00',0,0,0,NULL,NULL,NULL);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
INSERT INTO "schema_version" VALUES(2);
INSERT INTO "schema_version" VALUES(3);
INSERT INTO "schema_version" VALUES(4);
INSERT INTO "schema_version" VALUES(5);
CREATE TABLE scores (
	id INTEGER NOT NULL, 
	run VARCHAR(32) NOT NULL, 
	round INTEGER NOT NULL, 
	split VARCHAR(16) NOT NULL, 
	institution VARCHAR(64) NOT NULL, 
	task VARCHAR(64) NOT NULL, 
	metric VARCHAR(32) NOT NULL, 
	value FLOAT NOT NULL, 
	examples INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(run) REFERENCES runs (run)
);
INSERT INTO "scores" VALUES(1,'0a1b2c3d',1,'test','bank','t','macro_f1',0.5,9);
CREATE TABLE spending (
	id INTEGER NOT NULL, 
	run VARCHAR(32) NOT NULL, 
	round INTEGER NOT NULL, 
	institution VARCHAR(64) NOT NULL, 
	epsilon FLOAT NOT NULL, 
	ledger VARCHAR(96), 
	PRIMARY KEY (id), 
	FOREIGN KEY(run) REFERENCES runs (run)
);
INSERT INTO "spending" VALUES(1,'0a1b2c3d',1,'bank',0.5,'3:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa');
CREATE INDEX ix_replies_run ON replies (run);
CREATE INDEX ix_scores_run ON scores (run);
CREATE INDEX ix_spending_run ON spending (run);
CREATE INDEX ix_evaluations_run ON evaluations (run);
CREATE INDEX ix_findings_run ON findings (run);
CREATE INDEX ix_cuts_run ON cuts (run);
CREATE INDEX ix_events_run ON events (run);
COMMIT;
