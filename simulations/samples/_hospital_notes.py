"""Short clinical notes of the hospital with questions, by split.

A block is one note, then its questions: `? question = answer`, where the answer stands word for word in the note
and exactly once; `? question =` asks for something that the note does not state.
"""
# ruff: noqa: E501

NOTES = {
    "train": """
A 54-year-old teacher came with a dry cough that had lasted for three weeks. She is a non-smoker. The chest X-ray showed a small patch in the right lower lobe. Doxycycline 100 mg twice daily was started for pneumonia, and she will return to the clinic in ten days.
? How long had the cough lasted? = three weeks
? What did the chest X-ray show? = a small patch in the right lower lobe
? When will she return to the clinic? = in ten days

Mr B, 71, attended with swollen ankles and breathlessness at night. The echocardiogram showed a weak left ventricle. Bisoprolol 2.5 mg once daily was begun for heart failure. He was told to weigh himself every morning. The heart nurse will telephone him next week.
? What dose of bisoprolol was begun? = 2.5 mg once daily
? Which drug was begun for heart failure? = Bisoprolol
? How long has he had swollen ankles? =

The patient is a 33-year-old cook with burning pain in the upper abdomen for two months. Endoscopy found mild inflammation of the oesophagus. She was given omeprazole 20 mg before breakfast. Her weight is stable at 61 kg. Review was arranged with her own doctor after eight weeks.
? What was the main complaint? = burning pain in the upper abdomen
? What did the endoscopy find? = mild inflammation of the oesophagus
? What dose of omeprazole was she given? = 20 mg before breakfast

A 68-year-old widow reported palpitations that had come and gone for five days. The ECG showed an irregular rhythm without P waves. Apixaban 5 mg twice daily was prescribed for atrial fibrillation. She already takes lisinopril 10 mg. A heart scan is booked for Monday.
? What dose of apixaban was prescribed? = 5 mg twice daily
? What dose of lisinopril does she take? = 10 mg
? What did the heart scan show? =

This 24-year-old student has had throbbing headaches on one side for four years, recently twice a week. Neurological examination was normal. Sumatriptan 50 mg was prescribed for migraine, to be taken at the first sign of an attack. She will keep a headache diary and come back in three months.
? What was prescribed for migraine? = Sumatriptan
? How long has she had the headaches? = four years
? What did the brain scan show? =

A farmer aged 62 presented with a hot, painful big toe since yesterday evening. Uric acid was raised at 510. He received advice on diet and a short course of naproxen 500 mg twice daily. Allopurinol for gout will be considered after two weeks, when the attack has settled.
? What was the main complaint? = a hot, painful big toe
? What dose of naproxen did he receive? = 500 mg twice daily
? What dose of allopurinol was prescribed? =

Mrs K, 45, was seen for tiredness and weight gain over six months. Blood tests showed a raised TSH. Levothyroxine 50 micrograms each morning was started for hypothyroidism. She should take it on an empty stomach. Blood tests are to be repeated in six weeks.
? How much levothyroxine was started? = 50 micrograms each morning
? What did the blood tests show? = a raised TSH
? When are the blood tests to be repeated? = in six weeks

A boy of nine was brought in with wheezing after playing football. Peak flow was 60 per cent of the expected value. He improved after salbutamol from a spacer. His mother was taught the technique, and an asthma clinic visit was arranged for the following Friday.
? What was the boy brought in with? = wheezing
? What dose of salbutamol was used? =
? Which follow-up was arranged? = an asthma clinic visit

The patient, 58, has had numbness in both feet for about a year. Examination revealed loss of vibration sense at the ankles. His HbA1c was 71. Metformin was raised from 500 mg to 1 g twice daily. The podiatrist will see him within a month.
? To what dose was metformin raised? = 1 g twice daily
? What did the examination reveal? = loss of vibration sense at the ankles
? Which drug was given for the pain? =

A 29-year-old woman came to the clinic with pain on passing urine for two days. She had no fever. The urine dipstick was positive for nitrites. Nitrofurantoin 100 mg twice daily was given for five days. No follow-up is needed if she feels well.
? For how long was nitrofurantoin given? = five days
? What did the urine dipstick show? = positive for nitrites
? How long had she had pain on passing urine? = two days

Mr T, an 80-year-old retired sailor, fell in his kitchen and complained of pain in the left hip. The X-ray showed no fracture. Paracetamol 1 g four times daily was given for the pain. Physiotherapy starts tomorrow, and he may go home when he can walk safely.
? What did the X-ray show? = no fracture
? What was given for the pain? = Paracetamol
? How long had he been in pain? =

A 37-year-old baker noticed itchy red patches on both elbows ten weeks ago. The skin was scaly with sharp borders. Calcipotriol ointment was prescribed for psoriasis, to be applied once a day. She uses no other medicine. The dermatologist will see her again in the spring.
? What was prescribed for psoriasis? = Calcipotriol ointment
? When did she notice the patches? = ten weeks ago
? What dose of methotrexate does she take? =

This 66-year-old man was admitted with a swollen, tender right calf. Ultrasound showed a clot in the popliteal vein. Warfarin was started for deep vein thrombosis, aiming for an INR between 2 and 3. He is to attend the clotting clinic twice a week.
? What did the ultrasound show? = a clot in the popliteal vein
? Which drug was started for deep vein thrombosis? = Warfarin
? What dose of warfarin was started? =

A nurse of 41 described low mood and poor sleep for the last four months. She denied thoughts of self-harm. Sertraline 50 mg in the morning was started for depression, and she was referred for talking therapy. She will be reviewed by telephone in two weeks.
? What dose of sertraline was started? = 50 mg in the morning
? How long had her mood been low? = four months
? How will she be reviewed in two weeks? = by telephone

Mr D, 73, has a tremor of the right hand and walks with small steps. Examination showed stiffness of the right arm. Levodopa 100 mg three times daily was begun for Parkinson's disease. His wife reports vivid dreams. The neurologist wants to see him in two months.
? What did the examination show? = stiffness of the right arm
? Which drug was begun for Parkinson's disease? = Levodopa
? When does the neurologist want to see him? = in two months

A 19-year-old waiter had fever, neck stiffness and a headache since the morning. The lumbar puncture showed cloudy fluid. Ceftriaxone 2 g was given at once for meningitis. His flatmates were offered preventive tablets. He was moved to intensive care overnight.
? What did the lumbar puncture show? = cloudy fluid
? How much ceftriaxone was given? = 2 g
? What follow-up was arranged? =

The patient is a 77-year-old man who gets up five times each night to pass urine. The prostate felt enlarged and smooth. Tamsulosin 400 micrograms daily was started. He was warned about dizziness on standing. A PSA result is awaited, and he returns in six weeks.
? How did the prostate feel? = enlarged and smooth
? What dose of tamsulosin was started? = 400 micrograms daily
? What was the PSA result? =

A 50-year-old shop owner complained of a painful blistering rash on the left side of the chest for three days. No other skin was involved. Aciclovir 800 mg five times daily was prescribed for shingles. She should come back if new blisters appear.
? What was the main complaint? = a painful blistering rash
? What was prescribed for shingles? = Aciclovir
? How long had she had the rash? = three days

Ms F, 31, reports bloody diarrhoea eight times a day. Colonoscopy showed an inflamed rectum with small ulcers. Mesalazine 2.4 g daily was started for ulcerative colitis. She has lost 4 kg in weight. The bowel nurse will ring her on Thursday.
? What did the colonoscopy show? = an inflamed rectum with small ulcers
? How much weight has she lost? = 4 kg
? How long has she had diarrhoea? =

A 64-year-old clerk was seen because of chest tightness when climbing stairs. The resting ECG was normal. She was given a glyceryl trinitrate spray for angina and advice on exercise. An exercise test will be done within a fortnight. Her cholesterol was 6.8.
? What was the main complaint? = chest tightness
? What was she given for angina? = a glyceryl trinitrate spray
? What did the resting ECG show? = normal

This 48-year-old carpenter has had stiff, swollen fingers every morning for half a year. The X-ray of the hands showed early erosions. Methotrexate 15 mg once a week was started for rheumatoid arthritis, together with folic acid 5 mg. Blood counts will be checked every two weeks.
? What dose of methotrexate was started? = 15 mg once a week
? What did the X-ray of the hands show? = early erosions
? How long has he taken folic acid? =

A 26-year-old accountant had her first seizure at work this afternoon. It lasted two minutes. The brain scan was unremarkable. Levetiracetam 500 mg twice daily was started for epilepsy after discussion with her. She must not drive and will be seen in the seizure clinic.
? How long did the seizure last? = two minutes
? What did the brain scan show? = unremarkable
? Where will she be seen? = in the seizure clinic

Mr P, 59, came with a red, hot and swollen lower leg. His temperature was 38.4. Flucloxacillin 1 g four times daily was given for cellulitis, and the edge of the redness was marked with a pen. He should return tomorrow for a second look.
? What was the main complaint? = a red, hot and swollen lower leg
? Which drug was given for cellulitis? = Flucloxacillin
? How long had the leg been swollen? =

A 70-year-old woman was sent by her optician because of raised pressure in both eyes. The optic discs were cupped. Latanoprost drops at night were prescribed for glaucoma. She has no pain and her sight is good. Pressure will be measured again in four weeks.
? Why was she sent by her optician? = raised pressure in both eyes
? What was prescribed for glaucoma? = Latanoprost drops
? When will the pressure be measured again? = in four weeks

The patient, a 35-year-old potter, felt exhausted and had heavy periods for ten months. Haemoglobin was 84. Ferrous sulfate 200 mg once daily was started for iron deficiency anaemia. She was advised to take it with orange juice. A pelvic scan has been requested.
? How long had she had heavy periods? = ten months
? What dose of ferrous sulfate was started? = 200 mg once daily
? What did the pelvic scan show? =

A man of 44 returned from Ghana with shaking chills and fever. The blood film was positive for parasites. Artesunate was given through a vein for malaria, followed by tablets. His kidneys are working well. He stays on the ward until three negative films have been obtained.
? What did he return with? = shaking chills and fever
? Which drug was given for malaria? = Artesunate
? What dose of artesunate was given? =

Mrs L, 76, broke her wrist after a minor fall. The bone density scan showed a T-score of minus 3.1. Alendronate 70 mg once a week was started for osteoporosis. She must sit upright after each tablet. The scan will be repeated in three years.
? What did the bone density scan show? = a T-score of minus 3.1
? What dose of alendronate was started? = 70 mg once a week
? When will the scan be repeated? = in three years

A 52-year-old driver complains that his legs jerk and feel restless every evening. Ferritin was low at 18. Pramipexole 88 micrograms before bed was tried for restless legs syndrome. He drinks six cups of coffee a day and was asked to stop. Next appointment in five weeks.
? What was tried for restless legs syndrome? = Pramipexole
? When is the next appointment? = in five weeks
? How long have the legs felt restless? =

The 28-year-old mother noticed double vision that became worse towards evening. Her eyelids drooped on testing. Pyridostigmine 60 mg four times daily was started for myasthenia gravis. A scan of the chest showed a normal thymus. She was booked into the muscle clinic next month.
? What did the mother notice? = double vision
? What did the scan of the chest show? = a normal thymus
? How much pyridostigmine was started? = 60 mg four times daily

A 39-year-old decorator had stabbing pain in the left cheek lasting a few seconds at a time. It had troubled her for seven weeks. The brain scan was clear. Carbamazepine 200 mg at night was begun for trigeminal neuralgia. Sodium will be measured after ten days.
? For how long had the pain troubled her? = seven weeks
? Which drug was begun for trigeminal neuralgia? = Carbamazepine
? What dose of carbamazepine was begun? =

Mr W, a smoker of 67, has become more short of breath over the winter. Spirometry showed severe airflow obstruction. Tiotropium 18 micrograms once daily was added for chronic obstructive pulmonary disease. His inhaler technique was poor. Lung rehabilitation begins in two weeks.
? What did spirometry show? = severe airflow obstruction
? What was added for chronic obstructive pulmonary disease? = Tiotropium
? When does lung rehabilitation begin? = in two weeks

A seven-year-old girl developed puffy eyelids and swollen legs within a week. Urine protein was strongly positive. Prednisolone 40 mg daily was started for nephrotic syndrome. Her blood pressure was normal. Her parents test the urine each morning and will bring the chart in after the weekend.
? What dose of prednisolone was started? = 40 mg daily
? What did the girl develop? = puffy eyelids and swollen legs
? Which drug was given for the infection? =

The patient, 34, has been coughing for two months and has lost her appetite. The sputum smear was positive. Isoniazid 300 mg daily was prescribed with three other tablets for tuberculosis. Her partner had a clear X-ray. The public health nurse visits on Wednesday.
? How long has she been coughing? = two months
? What dose of isoniazid was prescribed? = 300 mg daily
? What did the patient's own X-ray show? =

A 22-year-old dancer came because of spots on the face and back that had not cleared with creams. There were a few deep cysts. Lymecycline 408 mg daily was given for acne. She was told that improvement takes eight weeks. Photographs were taken for comparison.
? Why did the dancer come? = spots on the face and back
? What was given for acne? = Lymecycline
? How long have the spots been present? =

Mr R, 55, had no complaints at his health check. His blood pressure was 168 over 98 on both arms. Lisinopril 5 mg once daily was started for hypertension. Kidney function was normal. He will measure his pressure at home and see the practice nurse in four weeks.
? What was his blood pressure? = 168 over 98
? What dose of lisinopril was started? = 5 mg once daily
? What dose of amlodipine was started? =

A 60-year-old cashier felt a lump in the left breast. The biopsy showed a small hormone-sensitive tumour. Surgery went well, and tamoxifen 20 mg daily was started for breast cancer. She has mild hot flushes. A mammogram is planned every year.
? How long had she felt the lump? =
? What was started for breast cancer? = tamoxifen
? How often is a mammogram planned? = every year

This 46-year-old man could not sleep for more than three hours a night since his divorce. Physical examination was normal. Zopiclone 7.5 mg at bedtime was given for insomnia for one week only. Sleep hygiene was discussed. He asked for no further appointment.
? How much zopiclone was given? = 7.5 mg at bedtime
? For how long was zopiclone given? = one week
? When will he be seen again? =

A 57-year-old gardener was found to have a white cell count of 92 during a routine test. The spleen was felt four centimetres below the ribs. Imatinib 400 mg daily was started for chronic myeloid leukaemia. He feels well. The blood clinic sees him every week.
? What dose of imatinib was started? = 400 mg daily
? Which drug was started for chronic myeloid leukaemia? = Imatinib
? What did the bone marrow show? =

Two brothers came with an itch that was worse at night. Burrows were seen between the fingers. Permethrin cream was given for scabies, to be used twice, one week apart. All family members were treated on the same day. Bedding should be washed hot.
? What was seen between the fingers? = Burrows
? What was given for scabies? = Permethrin cream
? How long had the brothers had the itch? =

A 30-year-old translator had period pains and pain during exercise for three years. Laparoscopy showed dark spots on both ovaries. Norethisterone 10 mg daily was started for endometriosis. She would like to have children later. The gynaecologist will see her after three cycles.
? What did the laparoscopy show? = dark spots on both ovaries
? What dose of norethisterone was started? = 10 mg daily
? When will the gynaecologist see her? = after three cycles

Mr G, 83, was confused on arrival and had a fever of 39.1. Crackles were heard at the left base. Amoxicillin 1 g three times daily was given for pneumonia. His daughter stays with him at night. The drip was removed after two days.
? What was heard at the left base? = Crackles
? What dose of amoxicillin was given? = 1 g three times daily
? What did the chest X-ray show? =

The 40-year-old musician has been worried and tense on most days for more than a year. Thyroid tests were normal. Venlafaxine 75 mg daily was begun for generalised anxiety disorder. He has cut down on wine. A visit with the psychologist is set for next Tuesday.
? What did the thyroid tests show? = normal
? Which drug was begun for generalised anxiety disorder? = Venlafaxine
? What dose of zopiclone does he take? =

A 65-year-old man complained of deep back pain that had grown worse over five months. The X-ray showed several punched-out lesions in the spine. Bortezomib injections were started for myeloma. His calcium was high on admission. Dental review comes before the next cycle.
? How long had the back pain been growing worse? = five months
? What did the X-ray show? = several punched-out lesions in the spine
? What dose of bortezomib was started? =

This 21-year-old woman had blurred vision in one eye, which cleared within ten days. The MRI showed four bright spots in the white matter. Interferon beta was offered for multiple sclerosis. She wishes to think about it. The specialist nurse will call her on Monday.
? What did the MRI show? = four bright spots in the white matter
? What was offered for multiple sclerosis? = Interferon beta
? Within what time did her vision clear? = ten days

A 38-year-old man attended with white patches on the tongue. They could be wiped off. Nystatin drops four times daily were given for oral candidiasis. He uses an inhaler without rinsing his mouth. The swab result was not yet back, and he goes home today.
? What did he attend with? = white patches on the tongue
? Which drug was given for oral candidiasis? = Nystatin
? What did the swab show? =

Mrs N, 63, takes atorvastatin for raised cholesterol and came with sore thighs. Her creatine kinase was three times the normal value. Atorvastatin 40 mg was stopped. She was asked to drink plenty of water. The enzyme will be measured again in one week.
? What did she come with? = sore thighs
? What was her creatine kinase? = three times the normal value
? Which drug replaced atorvastatin? =

The 25-year-old builder had fever, aching limbs and a cough for thirty-six hours. The throat was red. Oseltamivir 75 mg twice daily was started for influenza. His oxygen level was 97 per cent. He should stay off work until he has been free of fever for a day.
? How long had he had fever? = thirty-six hours
? What did he receive for influenza? = Oseltamivir
? When should he attend the clinic again? =

A 49-year-old priest with bipolar disorder reported a fine tremor of the hands. The lithium level was 1.3. The dose was cut from 800 mg to 600 mg at night. He keeps a mood chart. The level will be taken again in seven days.
? To what dose was lithium cut? = 600 mg at night
? What did the priest report? = a fine tremor of the hands
? When will the level be taken again? = in seven days
""",
    "validation": """
A 36-year-old postman came with pain in the lower abdomen and loose stools for five weeks. The small bowel scan showed a thickened terminal ileum. Infliximab 5 mg per kilogram was given for Crohn's disease. He has stopped smoking. The second infusion is due in two weeks.
? What did the scan show? = a thickened terminal ileum
? What was given for Crohn's disease? = Infliximab
? When is the second infusion due? = in two weeks

Mrs H, 69, collapsed after a long coach journey. The CT of the chest showed a clot in the left lung. Rivaroxaban 15 mg twice daily was started. Her pulse settled overnight. She was asked to wear stockings and will be seen in the clot clinic.
? How much rivaroxaban was started? = 15 mg twice daily
? Where will she be seen? = in the clot clinic
? How long was she in hospital? =

A 20-year-old lorry loader keeps falling asleep during meals. The sleep study showed very early dreaming. Modafinil 200 mg in the morning was prescribed for narcolepsy. He must not drive for now. He has had these attacks since he was fifteen.
? What dose of modafinil was prescribed? = 200 mg in the morning
? What did the sleep study show? = very early dreaming
? When is the next appointment? =

The patient, 42, had a racing heart, sweating and weight loss over three months. The thyroid was enlarged. Carbimazole 20 mg daily was started for Graves' disease. She should report any sore throat at once. Her hormone levels will be checked in four weeks.
? Which drug was started for Graves' disease? = Carbimazole
? How long had she been losing weight? = three months
? When will her hormone levels be checked? = in four weeks

A barber of 27 woke with a stiff lower back each day for a year. The MRI showed inflamed sacroiliac joints. Etanercept 50 mg weekly was started for ankylosing spondylitis. Swimming was encouraged. A nurse taught him to inject himself.
? What did the MRI show? = inflamed sacroiliac joints
? How often is etanercept given? = weekly
? When will he be reviewed? =

This 32-year-old man had sharp chest pain that eased when he leaned forward. A rub was heard over the heart. Colchicine 500 micrograms twice daily was given for pericarditis. Troponin was normal. He should avoid sport for three months and return in a week.
? What was heard over the heart? = A rub
? How long should he avoid sport? = three months
? What dose of colchicine was given? = 500 micrograms twice daily

Mrs V, 74, complained of a sudden urge to pass urine all day long. The bladder scan showed no residue. Solifenacin 5 mg daily was tried for overactive bladder. She was warned of a dry mouth. Pelvic floor classes were recommended.
? What was the complaint of Mrs V? = a sudden urge to pass urine
? What was tried for overactive bladder? = Solifenacin
? How long had she had these complaints? =

A pianist of 43 felt faint and had darkened skin on the knuckles. The morning cortisol was very low. Hydrocortisone 10 mg three times daily was started for Addison's disease. She carries a steroid card. The hormone clinic sees her again next month.
? What did the cortisol test show? = very low
? Which drug was started for Addison's disease? = Hydrocortisone
? Which antibiotic was she given? =
""",
    "test": """
An 81-year-old grandmother could barely lift her arms above her shoulders, a problem that began seven weeks earlier. Inflammation markers were high. Tocilizumab 162 mg every week was chosen for polymyalgia rheumatica because steroids upset her stomach. The rheumatologist expects her back at the end of the summer.
? What dose of tocilizumab was chosen? = 162 mg every week
? How long has the upset stomach lasted? =
? What did the X-ray of the shoulders show? =

Backpacker, 23, three weeks of greasy diarrhoea and bloating. Stool microscopy revealed cysts. We treated the giardiasis with metronidazole 400 mg three times daily for five days, and the girlfriend was checked as well. Should the cramps persist after the course, another sample is needed.
? Which drug was used for giardiasis? = metronidazole
? What did stool microscopy reveal? = cysts
? How long had the diarrhoea been going on? = three weeks

Miss A, 34, has an old butterfly rash and now reports aching wrists. Kidney tests are fine. For her lupus she takes hydroxychloroquine, 200 mg in the evening, and 400 mg ibuprofen when it hurts. An eye check is due every twelve months.
? How much hydroxychloroquine does she take? = 200 mg in the evening
? What does Miss A report now? = aching wrists
? How long have her wrists been aching? =

Plumber aged 56, brought by ambulance with high fever and confusion after cleaning a cooling tower. Urine antigen came back positive. Azithromycin 500 mg was infused for legionellosis. On the fourth day he recognised his wife again. A lung function test will take place in six weeks.
? What did the ambulance bring him with? = high fever and confusion
? Which drug was infused for legionellosis? = Azithromycin
? What did the chest X-ray show? =

She is 26, pregnant, and shivering, with right flank pain since Sunday. Ultrasound demonstrated a dilated right kidney. Ciprofloxacin was ruled out, so the pyelonephritis was treated by cefuroxime 1.5 g every eight hours. The midwife looks in twice a day.
? What did the ultrasound demonstrate? = a dilated right kidney
? By which drug was the pyelonephritis treated? = cefuroxime
? What dose of ciprofloxacin was given? =

Shoe size and ring size have grown for about six years in this 47-year-old locksmith. MRI displayed a pituitary tumour of 14 mm. Octreotide 20 mg monthly should shrink it before the acromegaly is operated on. Surgeons discuss him on Friday morning.
? How long have shoe and ring size been growing? = about six years
? What did the MRI display? = a pituitary tumour of 14 mm
? What dose of octreotide is he on? = 20 mg monthly

Her husband says that Mrs C, 79, repeats questions and loses her way in the village. The memory test gave 19 points out of 30. Donepezil 5 mg at night has been recommended for her dementia. They will be visited at home in eight weeks by the memory team.
? What was the result of the memory test? = 19 points out of 30
? Which drug has been recommended for her dementia? = Donepezil
? For how long has she been losing her way? =

Routine bloods in a dialysis patient of 61 gave a potassium of 6.4. He felt weak but had no chest pain. The tracing displayed tall T waves. Patiromer 8.4 g daily was added against hyperkalaemia. Bananas and dried fruit are off the menu. Potassium check again tomorrow.
? What did the tracing display? = tall T waves
? How much patiromer was added? = 8.4 g daily
? For how long had he felt weak? =

A tattooist, 39, pointed to a mole on her back that had been bleeding for a month. Excision yielded a melanoma 1.2 mm thick. Lymph nodes were free. She opted for pembrolizumab 400 mg every six weeks. Sun protection was stressed, and the skin clinic examines her quarterly.
? How thick was the melanoma? = 1.2 mm
? How long had the mole been bleeding? = a month
? What dose of pembrolizumab did she opt for? = 400 mg every six weeks

Toddler, 20 months, barking cough and noisy breathing since midnight. The throat was not inspected so as not to upset him. A single dose of dexamethasone by mouth eased the croup within two hours. The parents went home at dawn and know when to return.
? What was the toddler brought in with? = barking cough and noisy breathing
? Which drug eased the croup? = dexamethasone
? How much dexamethasone did he get? =

Violinist, 28: fingers turn white and then blue in the cold, worst this winter. Capillaries at the nail fold looked normal. Nifedipine 10 mg three times a day helps against Raynaud's phenomenon. Gloves and less caffeine were suggested. We offered her a visit next autumn.
? What happens to her fingers in the cold? = turn white and then blue
? How did the capillaries look? = normal
? How much nifedipine does she take? = 10 mg three times a day

The fever of this 52-year-old drummer had resisted tablets for sixteen days. Echo identified a vegetation on the mitral valve. Vancomycin 1 g twice daily through a central line is planned for his endocarditis, six weeks in total. A dentist will inspect his teeth on Thursday.
? How long had the fever resisted tablets? = sixteen days
? What did the echo identify? = a vegetation on the mitral valve
? Who will inspect his teeth? = A dentist

Old Mr J cannot hold a cup because his hands shake whenever he reaches out. A glass of wine calms them. Propranolol 40 mg twice a day was suggested for essential tremor. Pulse 78, lungs clear. His neighbour drives him to the surgery in a month.
? What was suggested for essential tremor? = Propranolol
? When does the neighbour drive him to the surgery? = in a month
? For how many years have his hands been shaking? =

Night sweats, itching and a rubbery lump above the collarbone led this 31-year-old diver to us. The PET scan lit up nodes on both sides of the midriff. Brentuximab joins the usual drugs against his Hodgkin lymphoma. Sperm was banked on Tuesday. Hair loss is expected.
? Which drug joins the usual ones against his lymphoma? = Brentuximab
? What did the PET scan light up? = nodes on both sides of the midriff
? What dose of brentuximab is he given? =

Gnawing pain between meals has bothered the 44-year-old taxi owner for nine weeks. At gastroscopy a clean ulcer of 8 mm was seen in the duodenum. Lansoprazole 30 mg each morning shall heal it. He gave up painkillers. If all goes well, no second gastroscopy is required.
? How long has the pain bothered him? = nine weeks
? What was seen at gastroscopy? = a clean ulcer of 8 mm
? What dose of lansoprazole shall heal the ulcer? = 30 mg each morning
""",
}
