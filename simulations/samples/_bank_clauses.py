"""Clauses of loan agreements at the bank: one hand-written clause a line, by split and label."""

TRAIN = {
    "confidentiality": """
The Lender shall keep the Borrower's financial statements secret and shall use them only to monitor the loan.
The Agent may pass information on the Obligors to a potential assignee that has signed a secrecy undertaking.
The Bank may not reveal the account balance to anyone except regulators and auditors.
The Borrower shall not disclose the margin or the fee letter to other banks.
Business plans delivered to the Lender remain confidential until the facility has been repaid in full.
The Arranger shall treat the information memorandum as private and confidential.
A Finance Party may disclose loan data to rating agencies only in anonymous form.
The Guarantor's tax records shall not be shared with any other customer of the Bank.
""",
    "termination": """
The Lender may cancel the undrawn commitment and end the facility upon an event of default.
The Borrower may terminate the revolving facility by ten business days' notice.
The availability period closes two years after signing, and any unused commitment then lapses.
If it becomes unlawful to maintain the loan, the commitment of that Lender is cancelled at once.
The guarantee comes to an end when all secured obligations have been discharged.
The Bank may withdraw the overdraft facility at any time by written notice.
The Agent may resign and its appointment shall end once a successor has been named.
The swap agreement shall terminate early if the underlying loan is prepaid.
""",
    "liability": """
The Agent is not liable for any action taken under the Finance Documents unless it was grossly negligent.
The Borrower shall indemnify each Lender against losses caused by a failure to draw a requested loan.
The Guarantor's total liability under the guarantee is limited to eight million euros.
The Bank accepts no responsibility for delays in payment systems that it does not control.
Each Obligor is jointly and severally liable for the debts of the others.
The Security Trustee shall not be responsible for a fall in the value of the collateral.
The Lenders' obligations are several, and none of them answers for another's default.
The Borrower shall compensate the Finance Parties for damage that results from a false representation.
""",
    "payment": """
The Borrower shall repay the loan in twelve equal quarterly instalments.
Interest accrues daily and is payable on the last day of each interest period.
The Borrower shall pay a commitment fee of forty basis points on the undrawn amount.
Overdue sums bear default interest at two per cent above the ordinary rate.
All repayments shall be made in full, without set-off or deduction for tax.
The Borrower may prepay the loan in whole against a fee of one per cent.
The arrangement fee is due on the date of the first drawing.
Proceeds of any disposal above the threshold shall be applied to repay the term loan.
""",
    "governing_law": """
This facility agreement and any dispute about it are governed by English law.
The Borrower submits to the jurisdiction of the courts of Frankfurt for the benefit of the Lenders.
The mortgage over the vessel is subject to the laws of Malta.
The Finance Parties may take proceedings in any other court that has jurisdiction over the assets.
The Obligors appoint an agent in London for the service of process.
The pledge of shares shall be construed under the law of Luxembourg.
Disputes under the guarantee shall be referred to arbitration seated in Paris.
The Borrower waives immunity from suit and enforcement in the courts of New York.
""",
}

VALIDATION = {
    "confidentiality": """
The Bank shall not tell the Borrower's competitors that a loan has been requested.
Credit reports obtained by the Lender must be kept from all persons outside the credit department.
""",
    "termination": """
The commitment ends automatically if the first drawing has not been made within six months.
The Borrower may give up the unused part of the facility by notice to the Agent.
""",
    "liability": """
No Lender answers to the Borrower for losses that follow from market disruption.
The Pledgor shall hold the Bank harmless against claims by third-party owners of the collateral.
""",
    "payment": """
The Borrower shall clear the outstanding principal in one sum at the final maturity.
Agency charges of five thousand francs fall due each January.
""",
    "governing_law": """
Spanish law determines the rights of the parties under this credit agreement.
The Lender may sue the Guarantor only before the courts of Copenhagen.
""",
}

TEST = {
    "confidentiality": """
Nobody at the Bank may speak about the client's debts with outsiders.
Figures that the Borrower hands over for the annual review must not leave the lending team.
Participants in the syndicate promise to keep the pricing of this loan to themselves.
Details of the collateral pool may be shown to a purchaser of the loan, but to no newspaper.
""",
    "termination": """
Once the Borrower misses two instalments, the Bank is free to call off the whole credit line.
The standby facility expires on completion of the bond issue.
Any letter of credit that remains unused after a year shall lapse.
Upon a change of ownership the Lenders can bring the agreement to an end by five days' notice.
""",
    "liability": """
The Valuer's responsibility to the syndicate does not exceed the fee it has earned.
The Parent company must make good whatever the Lenders lose through fraud of its subsidiary.
The Paying Agent bears no blame for acting on a forged instruction it could not detect.
Recourse against the Sponsor is restricted to the shares that it has charged.
""",
    "payment": """
The whole principal is to be returned with accrued interest on the maturity day.
Every three months the Company transfers the interest for the past quarter to the Agent.
A waiver fee becomes due whenever the covenants are reset.
Rental income from the mortgaged houses goes first toward the monthly instalments.
""",
    "governing_law": """
The deed of charge over the vineyards takes effect under Italian law.
Any suit about this note may be heard by the judges sitting in Tokyo.
Swiss rules decide whether the assignment of the loan is valid.
The parties leave their disputes under this credit to a tribunal in Oslo.
""",
}
