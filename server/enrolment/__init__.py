"""Who may take part: the certificate authority and the enrolment of institutions."""
